"""What a person sees while work is long: one console, progress bars at a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_LINE_EVERY_S = 10.0
"""How often a bar becomes a line where the output is a file or a pipe."""

log = logging.getLogger(__name__)


def console() -> Console:
    """The console on today's standard error: looked up each time, so that redirection and capture work."""
    return Console(file=sys.stderr, soft_wrap=True, highlight=False)


_live: list[Progress] = []
"""What is being redrawn at the terminal, if anything is."""


class ConsoleHandler(logging.Handler):
    """Log lines on standard error, above what is redrawn there, if anything is."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            target = _live[-1].console if _live else console()
            style = (
                "bold red"
                if record.levelno >= logging.ERROR
                else "yellow"
                if record.levelno >= logging.WARNING
                else ""
            )
            target.print(self.format(record), style=style, markup=False)
        except Exception:
            self.handleError(record)


class Bar:
    """One piece of long work: `advance` it, and `note` what a person wants to see beside it."""

    def __init__(
        self,
        label: str,
        total: int | None,
        done: int,
        live: tuple[Progress, TaskID] | None = None,
        *,
        silent: bool = False,
    ) -> None:
        self._label, self._total, self._live, self._silent = label, total, live, silent
        self._done = self._done_before = done
        self._note = ""
        self._last_line_s = self._start_s = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        self._done += amount
        if self._live is not None:
            progress, task = self._live
            progress.advance(task, amount)
        elif not self._silent and time.monotonic() - self._last_line_s >= PLAIN_LINE_EVERY_S:
            self._last_line_s = time.monotonic()
            log.info(self._line())

    def note(self, text: str) -> None:
        self._note = text
        if self._live is not None:
            progress, task = self._live
            progress.update(task, note=text)

    def _line(self) -> str:
        elapsed_s = time.monotonic() - self._start_s
        if not self._total:
            return f"{self._label}: {self._done} {self._note}".rstrip()
        left_s = elapsed_s / max(self._done - self._done_before, 1) * (self._total - self._done)
        return f"{self._label}: {self._done}/{self._total}, {left_s:.0f} s left {self._note}".rstrip()


class Bars(Progress):
    """Lines redrawn at a terminal: a bar for each piece of work, one inside another below it."""

    def __init__(self, target: Console, redraws_per_s: float = 10.0) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        super().__init__(*columns, console=target, refresh_per_second=redraws_per_s)


def terminal() -> Console | None:
    """The console where lines can be redrawn: None where nobody watches, or where others are being redrawn."""
    target = console()
    return None if _live or not target.is_interactive else target


@contextmanager
def live(bars: Bars) -> Iterator[None]:
    """Redraw `bars` while the block runs: bars opened inside become lines of it, log lines go above it."""
    with bars:
        _live.append(bars)
        try:
            yield
        finally:
            _live.remove(bars)


@contextmanager
def bar(label: str, total: int | None, *, done: int = 0, show: bool = True) -> Iterator[Bar]:
    """Show progress over `total` pieces (None: unknown), of which `done` are behind already.

    At a terminal a live bar, and inside another live one a line of that, gone when its work is done; elsewhere
    a line every PLAIN_LINE_EVERY_S. `show=False` (other ranks) shows nothing.
    """
    if show and _live:
        around = _live[-1]
        task = around.add_task(label, total=total, completed=done, note="")
        try:
            yield Bar(label, total, done, (around, task))
        finally:
            around.remove_task(task)
    elif show and (target := terminal()) is not None:
        bars = Bars(target)
        with live(bars):
            task = bars.add_task(label, total=total, completed=done, note="")
            yield Bar(label, total, done, (bars, task))
    else:
        yield Bar(label, total, done, silent=not show)
