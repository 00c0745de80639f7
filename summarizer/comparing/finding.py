"""The runs that paths lead to: run folders, those of sweeps and of whole trees, wandb's own folders, each once."""

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
from summarizer.tracking.sweep_run import ID_FILE as SWEEP_ID
from summarizer.tracking.wandb_run import ID_FILE

DEEPEST = 4
"""Levels below a path that are searched: outputs/DATE/TIME/NUMBER and one more."""
SIGNS = (SUMMARY, METRICS, ".hydra/config.yaml")
"""Any of them makes a folder a run's."""


@dataclass(frozen=True)
class Place:
    """Where the record of one run lies: its folder, or where that is not at hand its wandb folders."""

    folder: Path | None
    wandb: tuple[Path, ...] = ()
    """Oldest first: a resumed run has several."""

    @property
    def source(self) -> str:
        """As a person names it."""
        return shown(self.folder or self.wandb[-1])


@dataclass(eq=False)
class Found:
    places: list[Place] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    """By the path, in the order given."""
    notes: list[str] = field(default_factory=list)


def find(paths: Sequence[Path]) -> Found:
    """Every run below the paths, once, in the order in which they are named."""
    found = Found()
    folders: dict[Path, Path] = {}
    wandb: dict[str, dict[Path, Path]] = {}
    for path in paths:
        try:
            candidates = list(dict.fromkeys(_candidates(path, found)))
        except OSError as error:
            found.problems[shown(path)] = f"cannot be read: {error.strerror}"
            continue
        if not candidates and shown(path) not in found.problems:
            found.problems[shown(path)] = (
                f"holds no run: a run folder has {METRICS} or {SUMMARY}, a wandb folder has offline-run-*"
            )
        for candidate in candidates:
            if (file := wandb_file(candidate)) is None:
                folders.setdefault(candidate.resolve(), candidate)
            elif (owner := _owner(candidate)) is not None:
                folders.setdefault(owner.resolve(), owner)
            else:
                wandb.setdefault(_id(file), {}).setdefault(candidate.resolve(), candidate)
    known = {kept for folder in folders if (kept := _kept_id(folder / ID_FILE)) is not None}
    found.places += [Place(folder) for folder in folders.values()]
    found.places += [
        Place(None, tuple(sorted(of_run.values(), key=lambda path: path.name)))
        for run, of_run in wandb.items()
        if run not in known
    ]
    return found


def wandb_file(folder: Path) -> Path | None:
    """The record in a folder that wandb made for one run; None where it is no such folder."""
    if not re.match(r"(offline-)?run-", folder.name):
        return None
    return next(iter(sorted(folder.glob("run-*.wandb"))), None)


def _candidates(path: Path, found: Found) -> Iterator[Path]:
    """Run folders and wandb's run folders below a path, or the path itself."""
    if path.suffix == ".wandb" and path.is_file():
        path = path.parent
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
    if len({run.group for run in record.runs}) < len(folders):
        found.notes.append(
            f"Runs of {shown(sweep)} that trained together share their time and memory: both are the group's."
        )


def _below(folder: Path, levels: int, found: Found) -> Iterator[Path]:
    if _is_run(folder) or wandb_file(folder) is not None:
        if not _is_sweeps_own(folder):
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


def _is_sweeps_own(folder: Path) -> bool:
    """Whether wandb keeps a sweep's table there, which is no run."""
    file = wandb_file(folder)
    return file is not None and _kept_id(folder.parent.parent / SWEEP_ID) == _id(file)


def _owner(wandb_run: Path) -> Path | None:
    """The run folder that a wandb folder lies in, which says more of the same run."""
    folder, file = wandb_run.resolve().parent.parent, wandb_file(wandb_run)
    if file is None or not _is_run(folder) or _kept_id(folder / ID_FILE) != _id(file):
        return None
    return wandb_run.parent.parent if wandb_run.parent.parent.resolve() == folder else folder


def _id(file: Path) -> str:
    return file.stem.removeprefix("run-")


def _kept_id(file: Path) -> str | None:
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else None


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Numbers in names count as numbers: run 10 comes after run 9."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
