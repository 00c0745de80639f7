"""The runs that paths lead to: run folders, those of sweeps and of whole trees, each once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from summarizer.config.paths import shown
from summarizer.errors import ConfigError
from summarizer.runs.record import SUMMARY
from summarizer.sweeps.record import FILE_NAME as SWEEP
from summarizer.sweeps.record import read_sweep
from summarizer.tracking.metrics import METRICS

DEEPEST = 4
"""Levels below a path that are searched: outputs/DATE/TIME/NUMBER and one more."""
SIGNS = (SUMMARY, METRICS, ".hydra/config.yaml")
"""Any of them makes a folder a run's."""
OF_WANDB = re.compile(r"wandb|(offline-)?run-\d{8}_\d{6}-\w+")
"""The names of the folders that wandb makes beside a run's own record."""


@dataclass(eq=False)
class Found:
    """What the paths lead to."""

    folders: list[Path] = field(default_factory=list)
    """Run folders, each once, in the order in which they are named."""
    problems: dict[str, str] = field(default_factory=dict)
    """Why a path leads to nothing, by the path, in the order given."""
    notes: list[str] = field(default_factory=list)


def find(paths: Sequence[Path]) -> Found:
    """Every run below the paths, once, in the order in which they are named."""
    found = Found()
    folders: dict[Path, Path] = {}
    for path in paths:
        try:
            candidates = list(dict.fromkeys(_candidates(path, found)))
        except OSError as error:
            found.problems[shown(path)] = f"cannot be read: {error.strerror}"
            continue
        if not candidates and shown(path) not in found.problems:
            found.problems[shown(path)] = (
                "is a folder of wandb's; run folders are compared, so name the run's own folder"
                if OF_WANDB.fullmatch(path.resolve().name)
                else f"holds no run: a run folder has {METRICS} or {SUMMARY}"
            )
        for candidate in candidates:
            folders.setdefault(candidate.resolve(), candidate)
    found.folders += folders.values()
    return found


def _candidates(path: Path, found: Found) -> Iterator[Path]:
    """Run folders below a path, or the path itself."""
    if path.suffix == ".wandb" and path.exists():
        found.problems[shown(path)] = (
            "is a record of wandb's; run folders are compared, so name the run's own"
        )
        return
    if not path.is_dir():
        reason = "is a file; name the folder of a run" if path.exists() else "no such folder"
        found.problems[shown(path)] = reason
        return
    if (path / SWEEP).is_file():
        yield from _planned(path, found)
    yield from _below(path, DEEPEST, found)


def _planned(sweep: Path, found: Found) -> Iterator[Path]:
    """The runs that a sweep's record names, in its order, whichever of them have begun."""
    try:
        record = read_sweep(sweep)
    except ConfigError as error:
        found.problems[shown(sweep / SWEEP)] = "; ".join(issue.message for issue in error.issues)
        return
    folders = [sweep / run.folder for run in record.runs]
    yield from (folder for folder in folders if _is_run(folder))
    if waiting := sum(not _is_run(folder) for folder in folders):
        found.notes.append(f"{waiting} of the {len(folders)} runs of {shown(sweep)} have not begun.")
    found.notes += record.asked
    if len({run.group for run in record.runs}) < len(folders):
        found.notes.append(
            f"Runs of {shown(sweep)} that trained together share their time and memory: both are the group's."
        )


def _below(folder: Path, levels: int, found: Found) -> Iterator[Path]:
    if _is_run(folder):
        yield folder
        return
    if levels == 0:
        return
    try:
        inside = sorted(folder.iterdir(), key=_natural)
    except OSError as error:
        found.problems[shown(folder)] = f"cannot be read: {error.strerror}"
        return
    for path in inside:
        # A link could lead round in a circle; whoever means one names it.
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from _below(path, levels - 1, found)


def _is_run(folder: Path) -> bool:
    return any((folder / sign).is_file() for sign in SIGNS)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Numbers in names count as numbers: run 10 comes after run 9."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
