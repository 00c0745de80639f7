"""What tells runs apart: the keys in which their configs differ, a sweep's axes, and short names made of those."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from summarizer.console.safe_text import one_line
from summarizer.console.secrets import redact
from summarizer.errors import ConfigError
from summarizer.runs.record import RunRecord
from summarizer.tracking.names import run_name

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

NOT_OF_THE_RUN = (
    *("tracking", "hydra", "resume", "plan", "plan_tokens_per_s", "preview", "sweep", "experiment"),
    *("prompt.rendered.prompt", "prompt.rendered.answer"),  # what a model's template makes of the other keys
    *("data.processes", "trainer.processes", "trainer.log_every_steps", "trainer.checkpoint_every_steps"),
    *("trainer.keep_checkpoints", "evaluation.sample_summaries", "evaluation.rows_during_training"),
    *("evaluation.article_gain", "evaluation.nli", "evaluation.bertscore"),
    *("evaluation.bootstrap_samples", "evaluation.bootstrap_seed", "quantization.cache"),
)
"""Groups and keys that change nothing in what is trained and what it scores."""
UNSAID = {"prompt.kind": "text", "quantization.embedding_format": None}
"""What a config means that has the group and says nothing of the key, by which others are told apart."""
TARGET = "._target_"
"""Ends the key of a class that Hydra makes."""
WORDS: Mapping[str, object] = {"true": True, "false": False, "null": None}
LONGEST_NAME = 40
"""Characters of a name that is made of settings; where one is longer, its group has fewer settings in its names."""
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


# ---- configs -----------------------------------------------------------------------------------------------------


def flat(config: Mapping[str, Any]) -> dict[str, Value]:
    """Every key, dotted, with its value; what looks secret is ***. A list is one value."""
    said = {one_line(key): _value(key, value) for key, value in _leaves(config, "")}
    return said | {
        key: _value(key, value)
        for key, value in UNSAID.items()
        if key not in said and config.get(key.partition(".")[0])
    }


def from_overrides(overrides: Sequence[str]) -> dict[str, Value]:
    """What a run overrode, where its config was not kept."""
    typed = (override.lstrip("+").partition("=") for override in overrides if not override.startswith("~"))
    return {one_line(key): _value(key, _typed(value)) for key, _, value in typed}


def setting(key: str, config: Mapping[str, Value]) -> str:
    """A key's value as a person reads it: a class without its module."""
    text = config.get(key, UNSET).text
    return text.rpartition(".")[2] if key.endswith(TARGET) else text


def heading(key: str) -> str:
    """A key as a person reads it: `optimizer` for the class of the optimizer."""
    return key.removesuffix(TARGET)


def differing(
    configs: Sequence[Mapping[str, Value]],
    overrides: Sequence[Sequence[str]],
    swept: Collection[str] = (),
) -> tuple[str, ...]:
    """Keys whose values differ between runs, what tells most of the runs apart first.

    First come those that a sweep went through, in the order of the commands; then the others, the most evenly
    split between the runs first, equals in the order of the commands; last those in which one run differs.
    Of a run whose config was not kept, what it does not override is not known, and so no difference.
    swept: keys of sweeps among the runs.
    """
    whole = [len(config) > len(run) for config, run in zip(configs, overrides, strict=True)]
    differ = [
        key
        for key in dict.fromkeys(key for config in configs for key in config)
        if not _is_apart(key)
        and len(
            {c.get(key, UNSET) for c, is_whole in zip(configs, whole, strict=True) if is_whole or key in c}
        )
        > 1
    ]
    named = overridden(overrides)
    own = [key for key in named if key in differ]
    below = [key for key in differ if any(key.startswith(f"{group}.") for group in named)]
    return tuple(
        sorted(
            dict.fromkeys([*own, *below, *differ]),
            key=lambda key: (0, 0.0) if key in swept else _place([c.get(key, UNSET) for c in configs]),
        )
    )


def _place(values: Sequence[Value]) -> tuple[int, float]:
    """The more the values tell the runs apart, the lower: by their entropy, in nats."""
    counts = Counter(values).values()
    if len(values) > 2 and max(counts) == len(values) - 1:
        return 2, 0.0
    return 1, round(sum(n / len(values) * math.log(n / len(values)) for n in counts), 6)


def _is_apart(key: str) -> bool:
    return key in NOT_OF_THE_RUN or key.split(".")[0] in NOT_OF_THE_RUN


def overridden(overrides: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Keys and groups that commands name, in their order."""
    return tuple(
        dict.fromkeys(
            override.partition("=")[0].lstrip("+~").replace("/", ".") for run in overrides for override in run
        )
    )


def names(
    sources: Sequence[str],
    groups: Sequence[Sequence[int]],
    configs: Sequence[Mapping[str, Value]],
    overrides: Sequence[Sequence[str]],
    swept: Collection[str] = (),
) -> list[str]:
    """A short name for each run, no two alike: the settings in which it differs from the others of its group.

    Where those are long, as many of the first as there is room for; where none fits, the end of its path. Runs of
    the same settings have that end beside them. A run that is alone in its group is called as wandb calls it.
    sources: paths.  groups: indices of runs whose names are read beside each other; each run is in one.
    swept: keys of sweeps among the runs.
    """
    ends = _ends(sources)
    found = list(ends)
    for group in groups:
        of_group = [configs[i] for i in group]
        keys = differing(of_group, [overrides[i] for i in group], swept)
        settings = _settings(keys, of_group)
        if not _are_short(settings):
            settings = _settings(_first_that_fit(keys, of_group), of_group)
        if len(group) == 1:
            settings = _as_tracked(configs[group[0]], overrides[group[0]])
        if settings:
            for i, name in zip(group, settings, strict=True):
                found[i] = name
    return [
        name if found.count(name) == 1 else f"{name} ({end})" for name, end in zip(found, ends, strict=True)
    ]


def _settings(keys: Sequence[str], configs: Sequence[Mapping[str, Value]]) -> list[str]:
    """Names of these settings, one for each run; none without keys."""
    return [
        run_name([f"{heading(key)}={setting(key, config)}" for key in keys if key in config])
        for config in configs
        if keys
    ]


def _as_tracked(config: Mapping[str, Value], overrides: Sequence[str]) -> list[str]:
    """The name of a run in wandb, as far as it is short; none where nothing was overridden."""
    own = config.get("tracking.name", UNSET)
    if own.text not in (UNSET.text, "null") and _are_short([own.text]):
        return [own.text]
    kept = [override for override in overrides if "/" not in override.partition("=")[2]]
    while not _are_short([run_name(kept)]):
        kept = kept[:-1]
    return [] if run_name(kept) == run_name([]) else [one_line(run_name(kept))]


def _are_short(names: Sequence[str]) -> bool:
    return all(len(name) <= LONGEST_NAME for name in names)


def _first_that_fit(keys: Sequence[str], configs: Sequence[Mapping[str, Value]]) -> list[str]:
    """Keys, the first before others, that each tell more runs apart and together make short names."""
    chosen: list[str] = []
    for key in keys:
        names = _settings([*chosen, key], configs)
        if _are_short(names) and len(set(names)) > len(set(_settings(chosen, configs))):
            chosen.append(key)
    return chosen


def _ends(sources: Sequence[str]) -> list[str]:
    """Of each path as many last parts as tell it from the others."""
    parts = [PurePath(source).parts for source in sources]
    ends = []
    for own in parts:
        others = [other for other in parts if other != own]
        counts = range(1, len(own) + 1)
        told_apart = (n for n in counts if all(other[-n:] != own[-n:] for other in others))
        ends.append(one_line(str(PurePath(*own[-next(told_apart, len(own)) :]))))
    return ends


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _value(key: str, value: object) -> Value:
    if value is None:
        return Value((0, 0.0, "null"), "null")
    if isinstance(value, bool):
        return Value((3, 0.0, repr(value)), str(value).lower())
    if isinstance(value, int | float) and not math.isnan(value):
        return Value((1, float(value), ""), _short(value))
    text = value if isinstance(value, str) else _listed(value)
    if redact(f"{key}={text}") != f"{key}={text}":
        text = "***"
    return Value((2 if isinstance(value, str) else 3, 0.0, text), one_line(text) or "''")


def _short(number: int | float) -> str:
    """As few digits as say the number, and four of a longer one."""
    brief = f"{number:g}"
    if isinstance(number, int):
        return str(number)
    return brief if float(brief) == number else f"{number:.4g}"


def _listed(value: object) -> str:
    """Lists as YAML has them in one line; whole numbers alike whether or not JSON made them integers."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_listed(item) for item in value) + "]"
    return _short(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _typed(text: str) -> object:
    """An override's value as a config would have it."""
    if text in WORDS:
        return WORDS[text]
    try:
        return float(text)
    except ValueError:
        return text


# ---- the axes of a sweep -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepAxes:
    """Which keys a sweep changed, and the value of each run."""

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
        values = ((key, self.of[run.folder][key]) for key in self.keys)
        return " ".join(f"{key}={value.text}" for key, value in values if value is not UNSET)


def sweep_axes(runs: Sequence[RunRecord]) -> SweepAxes:
    """Compare the overrides of a sweep's runs. Raises ConfigError for one that Hydra cannot read."""
    parsed = {run.folder: _parsed(run) for run in runs}
    keys = dict.fromkeys(key for overrides in parsed.values() for key in overrides)
    of = {
        folder: {key: _typed_value(overrides[key]) if key in overrides else UNSET for key in keys}
        for folder, overrides in parsed.items()
    }
    differing = tuple(key for key in keys if len({values[key] for values in of.values()}) > 1)
    first = next(iter(parsed.values()), {})
    common = tuple(str(override.input_line) for key, override in first.items() if key not in differing)
    return SweepAxes(differing, {f: {key: v[key] for key in differing} for f, v in of.items()}, common)


def _parsed(run: RunRecord) -> dict[str, Override]:
    """By key; of a key given twice the last counts, as for Hydra."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        overrides = OverridesParser.create().parse_overrides(list(run.overrides))
    except HydraException as error:
        raise ConfigError.single(f"run {run.folder}", f"an override cannot be read: {error}") from error
    return {override.get_key_element().lstrip("+"): override for override in overrides}


def _typed_value(override: Override) -> Value:
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
