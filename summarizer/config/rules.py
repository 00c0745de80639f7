"""What several config groups must agree on. Each rule runs when the groups that it reads are sound."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from summarizer.config import specs
from summarizer.errors import Issue


def broken_rules(parts: Mapping[str, Any], rules: Iterable[Rule]) -> Iterator[Issue]:
    """An issue for each rule that the sound groups in `parts` (name to spec) break."""
    for groups, rule in rules:
        if all(group in parts for group in groups):
            yield from rule(*(parts[group] for group in groups))


def streaming_needs_steps(data: specs.DataSpec, trainer: specs.TrainerSpec) -> Iterator[Issue]:
    if data.streaming and trainer.max_steps is None:
        yield Issue("trainer.max_steps", "is required with data.streaming: a stream has no known length")
    if data.streaming and trainer.group_by_length:
        yield Issue("trainer.group_by_length", "cannot sort a streamed split; turn it or data.streaming off")


def best_metric_is_measured(trainer: specs.TrainerSpec, evaluation: specs.EvaluationSpec) -> Iterator[Issue]:
    if trainer.best_metric != "val/loss" and not evaluation.rows_during_training:
        yield Issue(
            "trainer.best_metric", f"{trainer.best_metric!r} needs evaluation.rows_during_training above 0"
        )


def splits_exist(data: specs.DataSpec, evaluation: specs.EvaluationSpec) -> Iterator[Issue]:
    if data.validation is None:
        yield Issue("data.validation", "is required: the best adapter is chosen on it")
    if evaluation.split != "validation" and getattr(data, evaluation.split) is None:
        yield Issue(f"data.{evaluation.split}", f"is required by evaluation.split={evaluation.split}")


def summary_leaves_room(prompt: specs.PromptSpec, generation: specs.GenerationSpec) -> Iterator[Issue]:
    if generation.max_new_tokens >= prompt.max_tokens:
        yield Issue(
            "generation.max_new_tokens",
            f"{generation.max_new_tokens} leaves no room for an article in prompt.max_tokens={prompt.max_tokens}",
        )


Rule = tuple[tuple[str, ...], Callable[..., Iterable[Issue]]]
"""The groups that a rule reads, and the rule, called with their specs."""

RULES: tuple[Rule, ...] = (
    (("data", "trainer"), streaming_needs_steps),
    (("trainer", "evaluation"), best_metric_is_measured),
    (("data", "evaluation"), splits_exist),
    (("prompt", "generation"), summary_leaves_room),
)
