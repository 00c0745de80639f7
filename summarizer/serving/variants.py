"""What a person chooses among: the opened runs and the base model, named without a path of this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from summarizer.config.paths import EMBEDDED_SCHEME, resolve_path
from summarizer.config.schema import ModelConfig
from summarizer.runs.trained_run import TrainedRun

BASE_ID = "base"
BASE_NAME = "base model"


@dataclass(frozen=True)
class Variant:
    """One way to write a summary."""

    id: str
    """What a request names it by: the run's number on the command line, or BASE_ID."""
    name: str
    detail: str
    """The overrides that tell it apart; empty where there are none to tell."""
    trial: int | None
    """Of the opened adapters; None is the base model."""


def variants_of(runs: Sequence[TrainedRun]) -> dict[str, Variant]:
    """The runs in their order, then the base model, by id."""
    names = short_names([run.folder.resolve() for run in runs])
    details = telling_overrides([run.overrides for run in runs])
    variants = [
        Variant(str(trial), name, detail, trial)
        for trial, (name, detail) in enumerate(zip(names, details, strict=True))
    ]
    variants.append(Variant(BASE_ID, BASE_NAME, "without an adapter", None))
    return {variant.id: variant for variant in variants}


def short_names(folders: Sequence[Path]) -> list[str]:
    """The end of each path, as long as it takes to tell all apart.

    The folders differ. Two parts at least, since `2026-11-23/07-02-50` and `sweep/0` say more than their ends.
    """
    for parts in range(2, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(folders):
            return names
    raise ValueError(f"the same folder twice among {len(folders)}")


def telling_overrides(overrides: Sequence[Sequence[str]]) -> list[str]:
    """Of each run's overrides those that not all runs have, or all of a run alone; none that holds a path."""
    shared = Counter(override for of_run in overrides for override in set(of_run))
    return [
        " ".join(
            override
            for override in of_run
            if (len(overrides) == 1 or shared[override] < len(overrides))
            and not any(separator in override for separator in "/\\")
        )
        for of_run in overrides
    ]


def base_name(model: ModelConfig) -> str:
    """The base as a page may name it: a folder by its last part, anything else in full."""
    name = model.name_or_path
    if name.startswith(EMBEDDED_SCHEME) or not resolve_path(name, "").is_dir():
        return name
    return PurePath(name).name
