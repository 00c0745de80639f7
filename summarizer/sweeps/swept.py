"""Which keys a sweep changed, and the value of each run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from summarizer.console.safe_text import one_line
from summarizer.errors import ConfigError
from summarizer.runs.record import RunRecord

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

LONGEST_NUMBER = 8
"""Characters of a number as typed; a longer one, such as a sampled rate, is rounded for people to read."""


@dataclass(frozen=True, order=True)
class Value:
    """An override's value, which sorts as a number if it is one. Equal numbers are equal however typed."""

    place: tuple[int, float, str]
    text: str = field(compare=False)
    """As a person reads it: one line, no control characters, never empty."""

    @property
    def number(self) -> float | None:
        return self.place[1] if self.place[0] == 1 else None


UNSET = Value((0, 0.0, ""), "(unset)")
"""Of a key that the run does not override, where another does."""


@dataclass(frozen=True)
class Swept:
    keys: tuple[str, ...]
    """Keys whose values differ between runs, in the order of the command."""
    of: Mapping[str, Mapping[str, Value]]
    """Folder of a run to key to value."""
    common: tuple[str, ...]
    """The overrides that all runs share, as typed."""

    def values(self, key: str) -> list[Value]:
        """The different values of a key in order: null, numbers, text, then lists and the like."""
        return sorted({values[key] for values in self.of.values()})

    def describe(self, run: RunRecord) -> str:
        """What tells this run from the others: `adapter.dim=8 optimizer.lr=3e-4`."""
        return " ".join(f"{key}={self.of[run.folder][key].text}" for key in self.keys)


def swept(runs: Sequence[RunRecord]) -> Swept:
    """Compare the overrides of a sweep's runs. Raises ConfigError for one that Hydra cannot read."""
    parsed = {run.folder: _parsed(run) for run in runs}
    keys = dict.fromkeys(key for overrides in parsed.values() for key in overrides)
    of = {
        folder: {key: _value(overrides[key]) if key in overrides else UNSET for key in keys}
        for folder, overrides in parsed.items()
    }
    differing = tuple(key for key in keys if len({values[key] for values in of.values()}) > 1)
    first = next(iter(parsed.values()), {})
    common = tuple(str(override.input_line) for key, override in first.items() if key not in differing)
    return Swept(differing, {f: {key: v[key] for key in differing} for f, v in of.items()}, common)


def _parsed(run: RunRecord) -> dict[str, Override]:
    """By key; of a key given twice the last counts, as for Hydra."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        overrides = OverridesParser.create().parse_overrides(list(run.overrides))
    except HydraException as error:
        raise ConfigError.single(f"run {run.folder}", f"an override cannot be read: {error}") from error
    return {override.get_key_element().lstrip("+"): override for override in overrides}


def _value(override: Override) -> Value:
    if override.is_delete():
        return Value((0, 0.0, "~"), "(deleted)")
    value = override.value()
    if value is None:
        return Value((0, 0.0, "null"), "null")
    if isinstance(value, str):
        return Value((2, 0.0, value), one_line(value) or "''")
    typed = one_line(override.get_value_string())
    if isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
        long = isinstance(value, float) and len(typed) > LONGEST_NUMBER
        return Value((1, float(value), ""), f"{value:.4g}" if long else typed)
    return Value((3, 0.0, repr(value)), typed)
