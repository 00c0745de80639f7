"""A command's first words: what it is about to do, said before anything that takes seconds is imported."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from summarizer.config.paths import shown
from summarizer.console.safe_text import without_controls
from summarizer.runs.record import RunRecord
from summarizer.tracking.names import redact

NAMED = 4
"""Values of a swept key that are named one by one; of more, the first and the last number."""

log = logging.getLogger(__name__)


def announce_runs(jobs: Sequence[RunRecord]) -> None:
    """Say in two lines what runs that train as one group will do, and where their results go."""
    configs = [job.config for job in jobs]
    log.info("%s", without_controls(f"{_count(jobs)}: {described(configs)}"))
    data = _values([config["data"]["path"] or config["data"]["train"] for config in configs])
    # A plan leaves nothing; a sweep has named its folder, which is around those of its runs.
    folder = f" to {shown(jobs[0].path)}" if len(jobs) == 1 and not configs[0]["plan"] else ""
    log.info("%s", without_controls(f"from {data}{folder}"))


def announce_sweep(overrides: Sequence[str]) -> None:
    """Say what is swept, as it was typed: composing and checking every combination may take seconds."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True)
    swept = " ".join(redact(typed) for typed, override in parsed if override.is_sweep_override())
    log.info("%s", without_controls(f"sweep{f' over {swept}' if swept else ''}: checking each combination"))


def described(configs: Sequence[Mapping[str, Any]]) -> str:
    """`LoRA dim=2 on embedded:tiny_gptj in int8, Adam8bit lr=0.001`; what differs has several values."""

    def part(group: str, key: str) -> str:
        return _values([config[group][key] for config in configs])

    def kind(group: str) -> str:
        return _values([config[group]["_target_"].rpartition(".")[2] for config in configs])

    adapter = kind("adapter")
    if all("dim" in config["adapter"] for config in configs):  # a kind of one's own may have none
        adapter += f" dim={part('adapter', 'dim')}"
    base = f"{part('model', 'name_or_path')} in {part('quantization', 'format')}"
    return f"{adapter} on {base}, {kind('optimizer')} lr={part('optimizer', 'lr')}"


def _count(jobs: Sequence[RunRecord]) -> str:
    if jobs[0].config["plan"]:
        return "plan"
    return "run" if len(jobs) == 1 else f"{len(jobs)} runs"


def _values(values: Sequence[object]) -> str:
    texts = list(dict.fromkeys(_text(value) for value in values))
    if len(texts) <= NAMED:
        return ",".join(texts)
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) == len(values):
        return f"{_text(min(numbers))}..{_text(max(numbers))}"
    return f"({len(texts)} values)"


def _text(value: object) -> str:
    if isinstance(value, list):
        return str(value[0]) if len(value) == 1 else f"{value[0]} and {len(value) - 1} more"
    return f"{value:g}" if isinstance(value, float) else str(value)
