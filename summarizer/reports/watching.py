"""Runs that still train, as their folders tell: a table at the terminal that is drawn anew until all have ended."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryFile
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from summarizer.config.paths import shown
from summarizer.console import progress
from summarizer.console.trial_lines import State, TrialLine, counted, leader, number, table
from summarizer.errors import ConfigError, Issue
from summarizer.reports.comparison import LOSS
from summarizer.runs.find_runs import find
from summarizer.runs.folder import holders
from summarizer.runs.read_runs import finite
from summarizer.runs.record import SUMMARY, RunRecord, read_record, read_summary
from summarizer.runs.requests import read_requests
from summarizer.runs.settings import flat, from_overrides, names
from summarizer.tracking.metrics import METRICS, read_metrics

EVERY_S = 3.0
"""How often folders are looked at, unless reading them takes longer than a tenth of that."""
QUIET_S = 120.0
"""Runs that no process holds, and whose folders did not change for so long, are taken to have been left."""
CURVE = 16
"""Characters of a run's training loss over its steps."""
BLOCKS = "▁▂▃▄▅▆▇█"
ENDED = ("completed", "stopped", "failed")
STATES: dict[str, State] = {
    "completed": "done",
    "stopped": "stopped",
    "failed": "failed",
    "waiting": "waiting",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watched:
    """What the folders say at one moment."""

    lines: tuple[TrialLine, ...]
    metric: str
    going_on: bool
    """Whether a run has not ended and some process is at work."""
    left: int
    """How many runs have not ended and are nobody's."""

    def describe(self) -> str:
        """`4 runs: 2 training, 1 waiting, 1 done; best val/loss 3.919 (dim=4)`."""
        best = leader(self.lines, self.metric)
        said = "" if best is None else f"; best {self.metric} {number(best.best)} ({best.label})"
        return f"{len(self.lines)} run{'' if len(self.lines) == 1 else 's'}: {counted(self.lines)}{said}"


def watch(paths: Sequence[Path], page: Callable[[], Path | None]) -> None:
    """Show the runs below the paths, and draw their page anew, until all have ended or nobody works on them.

    page: draws the page and returns its file; None where there is none. It is left alone for ten times as long as
    that took, so that the runs have the cores.
    Raises ConfigError where a path leads to nothing.
    """
    target = progress.terminal()
    drawn = None if target is None else _WatchBars(target)
    pauses, said = progress.Pauses(), ""
    next_page_s = 0.0
    with ExitStack() as stack:
        if drawn is not None:
            stack.enter_context(progress.live(drawn))
        while True:
            begun_s = time.monotonic()
            now = look(paths)
            if drawn is not None:
                drawn.now = now
                drawn.refresh()
            elif said != now.describe() and (pauses.over(begun_s) or not now.going_on):
                said = now.describe()
                log.info(said)
            if not now.going_on:
                break
            looked_s = time.monotonic()
            if looked_s >= next_page_s:
                file = page()
                next_page_s = time.monotonic() + 10 * (time.monotonic() - looked_s)
                if drawn is not None:
                    drawn.page = file
            time.sleep(max(EVERY_S, 10 * (looked_s - begun_s)))
    if now.left:
        runs = "1 run has" if now.left == 1 else f"{now.left} runs have"
        log.warning("%s not ended, and nobody works on them any more; resume=FOLDER goes on", runs)


def look(paths: Sequence[Path]) -> Watched:
    """What the runs below the paths have come to. Raises ConfigError where a path leads to no run."""
    found = find(paths)
    if not found.folders:
        raise ConfigError([Issue(path, problem) for path, problem in found.problems.items()])
    records, curves, losses = [], [], []
    for folder in found.folders:
        records.append(_record(folder))
        rows = _rows(folder)
        trained = [loss for row in rows if (loss := finite(row.get("train/loss"))) is not None]
        curves.append(curve(trained))
        values = [value for row in rows if (value := finite(row.get(_metric(records)))) is not None]
        losses.append((trained[-1] if trained else None, values[-1] if values else None))
    held = holders(found.folders)
    changed_s = max(map(_changed_s, found.folders))
    unfinished = [record for record in records if record.status not in ENDED]
    at_work = bool(held) or _now_s(found.folders[0]) - changed_s < QUIET_S
    labels = names(
        [shown(folder) for folder in found.folders],
        [range(len(records))],
        [flat(one.config) if one.config else from_overrides(list(one.overrides)) for one in records],
        [record.overrides for record in records],
    )
    clones = _clones(found.folders)
    lines = [
        TrialLine(
            label + clones.get(folder, ""),
            total=record.planned_steps or record.steps or 0,
            step=record.steps or 0,
            state=STATES.get(record.status, "training" if at_work else "stopped"),
            loss=loss,
            value=value,
            best=record.best.value if record.best else None,
            best_step=record.best.step if record.best else None,
            curve=drawn,
        )
        for folder, label, record, drawn, (loss, value) in zip(
            found.folders, labels, records, curves, losses, strict=True
        )
    ]
    going_on = bool(unfinished) and at_work
    return Watched(tuple(lines), _metric(records), going_on, 0 if going_on else len(unfinished))


def _clones(folders: Iterable[Path]) -> dict[Path, str]:
    """What to say behind the names of runs that began as clones of others, by their folders."""
    said: dict[Path, str] = {}
    for sweep in {folder.parent for folder in folders}:
        with suppress(ConfigError):
            for request in read_requests(sweep).asked:
                if request.folder is not None:
                    said[sweep / request.folder] = f", a clone of run {request.run}"
    return said


def _record(folder: Path) -> RunRecord:
    """A run, as far as it can be read: the comparison at the end says what cannot."""
    for read in (read_record, read_summary):
        with suppress(ConfigError):
            return read(folder)
    return RunRecord(folder=str(folder), status="running")


def _rows(folder: Path) -> list[dict[str, Any]]:
    with suppress(ConfigError):
        return read_metrics(folder / METRICS)
    return []


def _metric(records: Sequence[RunRecord]) -> str:
    """What the first run's best is by."""
    return str(records[0].config.get("trainer", {}).get("best_metric", LOSS))


def _now_s(folder: Path) -> float:
    """The time by the clock that dates what is written to a folder, which may be another machine's."""
    with suppress(OSError), TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
    return time.time()


def _changed_s(folder: Path) -> float:
    """When a run last wrote, as the clock of its file system has it."""
    files = (folder / name for name in (METRICS, SUMMARY, "run.log", ".hydra"))
    return max((os.stat(file).st_mtime for file in files if file.exists()), default=0.0)


def curve(values: Sequence[float]) -> str:
    """A line of blocks, each as high as the mean of its share of the values; empty without any."""
    if not values:
        return ""
    count = min(CURVE, len(values))
    edges = [len(values) * i // count for i in range(count + 1)]
    means = [fmean(values[start:end]) for start, end in pairwise(edges)]
    low, high = min(means), max(means)
    of = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((mean - low) * of)] for mean in means)


class _WatchBars(progress.Bars):
    """The table of runs, above the bars of the work of drawing their page."""

    def __init__(self, target: Console) -> None:
        self.now: Watched | None = None
        self.page: Path | None = None
        super().__init__(target)

    def get_renderables(self) -> Iterable[RenderableType]:
        tasks = self.tasks
        if self.now is not None:
            yield _Drawn(self.now, self.page, below=len(tasks))
        if tasks:
            yield self.make_tasks_table(tasks)


class _Drawn:
    """The table and what is to be known of it, as wide and high as the terminal lets them be."""

    def __init__(self, now: Watched, page: Path | None, *, below: int) -> None:
        self._now, self._page, self._below = now, page, below

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = max(console.height - 3 - self._below, 1)  # but for the heading, this line and the shell's
        yield from table(self._now.lines, self._now.metric, options.max_width, rows)
        said = counted(self._now.lines)
        if self._now.going_on:
            page = "" if self._page is None else f"; {shown(self._page)} reloads itself in the browser"
            said += f": looked at every {EVERY_S:.0f} s{page}; Ctrl-C ends"
        yield Text(said, style="dim", no_wrap=True, overflow="ellipsis")
