"""The settings of a sweep, the best first, and which of them are worth confirming.

A setting is what runs were configured as, the seed left out: runs that differ in the seed alone are one setting,
whose scores are their averages row by row, so that an interval over the rows holds no luck in the seeds.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from summarizer.console.amounts import rate_text
from summarizer.runs.record import RunRecord
from summarizer.runs.settings import UNSET, SweepAxes, Value, flat
from summarizer.sweeps.record import SweepRecord
from summarizer.yaml_files import read_yaml

COMMAND_FILE = "multirun.yaml"
"""Hydra's sweepers write the command's config there before anything else."""
MOST_RUNNERS_UP = 5
"""Settings beside the winner that are looked at, the best ones: more would cost the answer its certainty."""
SEED = "seed"
SHORT: Mapping[str, str] = {"adapter": "{}", "adapter.dim": "dim {}", "optimizer.lr": "at {}"}
"""How a sentence names the values of the keys that are swept most; of others it is `key=value`."""


@dataclass(frozen=True)
class Setting:
    """Runs of a sweep that differ in the seed alone."""

    name: str
    runs: tuple[RunRecord, ...]
    """Those that finished, and were evaluated."""
    planned: int
    is_default: bool
    value: float
    """The mean of their best values."""


def settings_of(record: SweepRecord, swept: SweepAxes, default: Mapping[str, Value]) -> list[Setting]:
    """The settings of which a run finished, the best first.

    default: the value of each swept key that the command would have without it, as far as that is known.
    """
    keys = [key for key in swept.keys if key != SEED]
    groups: dict[tuple[Value, ...], list[RunRecord]] = {}
    for run in record.runs:
        groups.setdefault(tuple(swept.of[run.folder][key] for key in keys), []).append(run)
    found = []
    for values, runs in groups.items():
        done = tuple(run for run in runs if run.status == "completed" and run.best is not None)
        if done:
            chosen = dict(zip(keys, values, strict=True))
            value = fmean(run.best.value for run in done if run.best is not None)
            # Of a key that was swept later, earlier runs have the default without naming it.
            is_default = bool(keys and default) and all(
                chosen[key] in (UNSET, default.get(key)) for key in keys
            )
            found.append(Setting(setting_name(chosen), done, len(runs), is_default, value))
    return sorted(found, key=lambda setting: record.metric.cost(setting.value))


def setting_name(values: Mapping[str, Value]) -> str:
    """As a sentence names it: `rslora dim 8 at 3e-4`, `dim 2 alpha=4 at 1e-3`; unset keys are left out."""
    values = {key: value for key, value in values.items() if value is not UNSET}
    first = [SHORT[key].format(values[key].text) for key in ("adapter", "adapter.dim") if key in values]
    others = [f"{key.rpartition('.')[2]}={value.text}" for key, value in values.items() if key not in SHORT]
    last = []
    if (rate := values.get("optimizer.lr")) is not None:
        last = [SHORT["optimizer.lr"].format(rate.text if rate.number is None else rate_text(rate.number))]
    return " ".join([*first, *others, *last]) or "the one setting"


def default_values(sweep: Path, keys: Sequence[str]) -> dict[str, Value]:
    """What the swept keys would have been without being swept, as Hydra kept the command's config; else nothing."""
    try:
        command = read_yaml(sweep / COMMAND_FILE)
    except (OSError, ValueError):
        return {}
    if not isinstance(command, DictConfig):
        return {}
    found: dict[str, Value] = {}
    for key in keys:
        try:
            value = OmegaConf.select(command, key)
            if OmegaConf.is_dict(value) or value is None:
                # A group is swept by the names of its options.
                value = OmegaConf.select(command, f"hydra.runtime.choices.{key}", default=value)
        except OmegaConfBaseException:
            continue
        if not OmegaConf.is_config(value):
            found |= flat({key: value})
    return found


def identity_of(record: SweepRecord, candidates: Sequence[Setting], rows_sha256: str) -> str:
    """What a confirmation depends on: which runs finished with which adapters, the candidates, and the rows."""
    done = [
        (run.folder, run.best.step, run.best.value)
        for run in record.runs
        if run.status == "completed" and run.best is not None
    ]
    names = [(setting.name, [run.folder for run in setting.runs]) for setting in candidates]
    return hashlib.sha256(json.dumps([done, names, rows_sha256]).encode()).hexdigest()


def candidates_of(settings: Sequence[Setting]) -> list[Setting]:
    """The winner, the best runners-up and the default: those whose certainty is looked at, in their order."""
    return [
        setting for place, setting in enumerate(settings) if place <= MOST_RUNNERS_UP or setting.is_default
    ]


# ---- how far seeds and settings lie apart ------------------------------------------------------------------------


def spread_within(groups: Sequence[Sequence[float]]) -> float | None:
    """The pooled standard deviation of values within their groups; None where no group has two of them."""
    squares = sum(sum((value - fmean(group)) ** 2 for value in group) for group in groups)
    freedom = sum(len(group) - 1 for group in groups)
    return math.sqrt(squares / freedom) if freedom else None


def spread_between(groups: Sequence[Sequence[float]]) -> float | None:
    """The standard deviation of the groups' means; None with fewer than two groups."""
    return stdev(map(fmean, groups)) if len(groups) > 1 else None
