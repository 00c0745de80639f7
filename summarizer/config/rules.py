"""What several values of a config must agree on. A rule runs as far as the values that it reads are sound."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

from summarizer.config import schema
from summarizer.config.messages import shown
from summarizer.errors import Issue


class UnsoundValueError(Exception):
    """A rule reads a value whose own mistake is reported already."""


@dataclass(frozen=True)
class SoundValues:
    """The sound values of a group that has mistaken ones too, so that rules can hold the rest of it to account."""

    values: Mapping[str, Any]
    kind: Any = None
    """What the group would be, were all of it sound."""

    def key(self, name: str) -> str:
        """What messages call a value of the group, as its own class says."""
        return str(self.kind.key(name))

    def __getattr__(self, name: str) -> Any:
        """A value by name. Raises UnsoundValueError for a mistaken one."""
        if name not in self.__dict__.get("values", ()):
            raise UnsoundValueError(name)
        return self.__dict__["values"][name]


def broken_rules(parts: Mapping[str, Any], rules: Iterable[Rule]) -> Iterator[Issue]:
    """What the groups in `parts` (name to spec, or to the `SoundValues` of one) break of the rules."""
    for groups, rule in rules:
        if all(group in parts for group in groups):
            with suppress(UnsoundValueError):
                yield from rule(*(parts[group] for group in groups))


def hub_data_has_a_name(data: schema.DataConfig) -> Iterator[Issue]:
    if data.source == "hub" and not data.path:
        yield Issue("data.path", "is required with data.source=hub: the name of the data set")


def columns_are_distinct(data: schema.DataConfig) -> Iterator[Issue]:
    fields: dict[str, str] = {}
    named = data.columns.model_dump()
    messages = named.pop("messages")
    for name in ("article", "summary") if messages is not None else ():
        if named.pop(name) is not None:
            yield Issue(
                f"data.columns.{name}",
                "has no place beside data.columns.messages, which holds both; leave one out",
            )
    for name, column in {"messages": messages, **named}.items():
        for one in [column] if isinstance(column, str) else column or ():
            if one in fields:
                yield Issue(
                    f"data.columns.{name}", f"{shown(one)} is the column of the {fields[one]} already"
                )
            fields.setdefault(one, name)


def training_ends(trainer: schema.TrainerConfig) -> Iterator[Issue]:
    if trainer.epochs is None and trainer.max_steps is None:
        yield Issue(
            "trainer.epochs", "null, and so is trainer.max_steps; give one of them, or training has no end"
        )


def batch_divides(trainer: schema.TrainerConfig) -> Iterator[Issue]:
    if trainer.processes and trainer.batch_size % trainer.processes:
        yield Issue(
            "trainer.batch_size",
            f"{trainer.batch_size} examples do not divide over trainer.processes={trainer.processes}",
        )


def streaming_needs_steps(data: schema.DataConfig, trainer: schema.TrainerConfig) -> Iterator[Issue]:
    if data.streaming and trainer.max_steps is None:
        yield Issue("trainer.max_steps", "is required with data.streaming: a stream has no known length")


def a_stream_is_not_held(data: schema.DataConfig, evaluation: schema.EvaluationConfig) -> Iterator[Issue]:
    if not data.streaming:
        return
    if data.rows_seed is not None and data.rows.train is not None:
        yield Issue(
            "data.rows_seed",
            f"{data.rows_seed} draws rows from the whole train split, which data.streaming never holds; "
            "null takes its first rows",
        )
    if isinstance(data.validation, int):
        yield Issue(
            "data.validation",
            f"{data.validation} rows are chosen among all rows, which data.streaming never holds; hold out a "
            f"share, and set data.rows.validation={data.validation}",
        )
    if evaluation.split == "train" and data.rows.train is None:
        yield Issue("data.rows.train", "is required to evaluate on a streamed train split, which is not kept")


def best_metric_is_measured(
    trainer: schema.TrainerConfig, evaluation: schema.EvaluationConfig
) -> Iterator[Issue]:
    if trainer.best_metric != "val/loss" and not evaluation.rows_during_training:
        yield Issue(
            "trainer.best_metric", f"{trainer.best_metric!r} needs evaluation.rows_during_training above 0"
        )


def splits_are_named(data: schema.DataConfig, evaluation: schema.EvaluationConfig) -> Iterator[Issue]:
    if data.validation is None:
        yield Issue(
            "data.validation",
            "is required; give it as data.validation=..., or hold out a tenth of the training rows by "
            "data.validation=0.1 (it picks the best adapter)",
        )
    if evaluation.split == "test" and data.test is None:
        yield Issue("data.test", "is required by evaluation.split=test")


def template_has_its_places(prompt: schema.PromptConfig) -> Iterator[Issue]:
    key, template = "prompt.template", prompt.template
    if template is None:
        if prompt.kind != "auto":
            yield Issue(key, "null is for prompt=auto alone; give the text around {article}")
        return
    if template.count("{article}") != 1:
        yield Issue(key, f"{shown(template)} must have {{article}} in it exactly once")
    if prompt.kind == "chat":
        if "{completion}" in template:
            yield Issue(
                key, f"{shown(template)} must not have {{completion}} in it: a turn's end marks the start"
            )
        return
    if "{completion}" in template.removesuffix("{completion}"):
        yield Issue(key, f"{shown(template)} may have {{completion}} in it once, at the very end")
    if prompt.kind == "text" and template.rstrip(" ").endswith("{article}"):
        # Spaces at the end become part of the summary.
        yield Issue(
            key,
            "something must mark where the summary starts; end it in {completion} or words such as TL;DR:",
        )


def summary_start_is_marked(prompt: schema.PromptConfig) -> Iterator[Issue]:
    key, token = "prompt.completion_token", prompt.completion_token
    if token is not None and prompt.kind != "text":
        yield Issue(key, f"{token!r} is not used by prompt={prompt.kind}; null leaves it out")
        return
    if prompt.template is None:
        return
    if token is not None and "{completion}" not in prompt.template:
        yield Issue(key, f"{token!r} is not used: prompt.template does not end in {{completion}}")
    words, completion, _ = prompt.template.rpartition("{completion}")
    if token is None and completion and words.rstrip(" ").endswith("{article}"):
        yield Issue(key, "null, so that nothing in prompt.template marks where the summary starts")


def chat_is_sound(prompt: schema.PromptConfig) -> Iterator[Issue]:
    if prompt.system is not None and prompt.kind == "text":
        yield Issue("prompt.system", "is a turn of prompt=chat; a text has none")
    if prompt.system is not None and "{article}" in prompt.system:
        yield Issue("prompt.system", "must not have {article} in it: that stands in prompt.template")
    if prompt.date is not None:
        try:
            date.fromisoformat(prompt.date)
        except ValueError:
            yield Issue("prompt.date", f"{shown(prompt.date)} is no day, such as 2024-07-26")
    elif prompt.kind == "chat":
        yield Issue("prompt.date", "null: chat templates may ask for a day; give one, such as 2024-07-26")
    rendered = prompt.rendered
    if rendered is not None and (
        rendered.prompt.count("{article}") != 1 or rendered.answer.count("{summary}") != 1
    ):
        yield Issue(
            "prompt.rendered", "must hold {article} once in its prompt, and {summary} once in its answer"
        )


def new_tokens_are_ordered(generation: schema.GenerationConfig) -> Iterator[Issue]:
    if generation.min_new_tokens > generation.max_new_tokens:
        yield Issue(
            generation.key("min_new_tokens"),
            f"{generation.min_new_tokens} is above "
            f"{generation.key('max_new_tokens')}={generation.max_new_tokens}",
        )


def summary_leaves_room(prompt: schema.PromptConfig, generation: schema.GenerationConfig) -> Iterator[Issue]:
    if generation.max_new_tokens >= prompt.max_tokens:
        yield Issue(
            generation.key("max_new_tokens"),
            f"{generation.max_new_tokens} leaves no room for an article in "
            f"prompt.max_tokens={prompt.max_tokens}",
        )


Rule = tuple[tuple[str, ...], Callable[..., Iterable[Issue]]]
"""The groups that a rule reads, and the rule, called with their specs."""

RULES: tuple[Rule, ...] = (
    (("data",), hub_data_has_a_name),
    (("data",), columns_are_distinct),
    (("trainer",), training_ends),
    (("trainer",), batch_divides),
    (("data", "trainer"), streaming_needs_steps),
    (("trainer", "evaluation"), best_metric_is_measured),
    (("data", "evaluation"), a_stream_is_not_held),
    (("prompt",), template_has_its_places),
    (("prompt",), summary_start_is_marked),
    (("prompt",), chat_is_sound),
    (("generation",), new_tokens_are_ordered),
    (("prompt", "generation"), summary_leaves_room),
)
