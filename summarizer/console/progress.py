"""What a person sees while work is long: one console, progress bars at a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

from summarizer.console.amounts import Unit, amount, duration, pace
from summarizer.console.safe_text import escaped, said

PLAIN_LINE_EVERY_S = 10.0
"""How often a bar becomes a line at first, where the output is a file or a pipe."""
FREQUENT_LINES = 20
"""So many lines come that often; from then on each waits for a 20th of the time gone, ..."""
LONGEST_PAUSE_S = 600.0
"""... at most so long: three days of training are some 500 lines."""
WORTH_A_LINE_S = 2.0
"""Work that cannot be counted says how long it took where it took longer."""

log = logging.getLogger(__name__)


class SafeConsole(Console):
    """A console on which no text steers the terminal: what styles it comes from this program's own styles alone."""

    def __init__(self, file: IO[str], **options: Any) -> None:
        super().__init__(file=file, highlight=False, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control is None and not (segment.text.isascii() and segment.text.isprintable()):
                yield Segment(escaped(segment.text, keep="\n"), segment.style)
            else:
                yield segment


def console() -> SafeConsole:
    """The console on today's standard error: looked up each time, so that redirection and capture work."""
    return SafeConsole(sys.stderr, soft_wrap=True)


shown: ContextVar[Progress | None] = ContextVar("shown", default=None)
"""What is being redrawn at the terminal, for the time of a `live` block; None outside."""


class ConsoleHandler(logging.Handler):
    """Log lines on standard error, above what is redrawn there, if anything is."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "quiet", False):  # for run.log alone
            return
        try:
            around = shown.get()
            target = console() if around is None else around.console
            style = (
                "bold red"
                if record.levelno >= logging.ERROR
                else "yellow"
                if record.levelno >= logging.WARNING
                else ""
            )
            target.print(said(self.format(record)), style=style)
        except Exception:
            self.handleError(record)


class Pauses:
    """When the next plain line is due: often at first, then ever more rarely, so that a log stays short."""

    def __init__(self) -> None:
        self.start_s = self._last_line_s = time.monotonic()

    def over(self, now_s: float) -> bool:
        """Whether a line is due; it is then taken as written."""
        often = PLAIN_LINE_EVERY_S
        rarely = often * max(1.0, (now_s - self.start_s) / (often * FREQUENT_LINES)) if often else 0.0
        if now_s - self._last_line_s < min(rarely, LONGEST_PAUSE_S):
            return False
        self._last_line_s = now_s
        return True


class Bar:
    """One piece of long work: `advance` it, and `note` what a person wants to see beside it."""

    def __init__(
        self,
        label: str,
        total: int | None,
        done: int,
        live: tuple[Progress, TaskID] | None = None,
        *,
        unit: Unit = "",
        silent: bool = False,
    ) -> None:
        self._label, self._total, self._unit, self._live, self._silent = label, total, unit, live, silent
        self._done = self._done_before = done
        self._note = ""
        self._ends_s: float | None = None
        self._pauses = Pauses()

    def advance(self, count: int = 1) -> None:
        self.reach(self._done + count, self._total)

    def reach(self, done: int, total: int | None) -> None:
        """Come to `done` of `total`, which may have become more."""
        self._done, self._total = done, total
        if self._live is not None:
            progress, task = self._live
            progress.update(task, completed=done, total=total)
        elif not self._silent and self._pauses.over(now_s := time.monotonic()):
            log.info(self._line(now_s))

    def note(self, text: str) -> None:
        """Show this text in place of the rate."""
        self._note = text
        if self._live is not None:
            progress, task = self._live
            progress.update(task, note=text)

    def expect(self, ends_s: float | None) -> None:
        """Say when all will be done, by time.monotonic(), where the pieces alone do not tell; None: they do."""
        self._ends_s = ends_s
        if self._live is not None:
            progress, task = self._live
            progress.update(task, ends_s=ends_s)

    def _line(self, now_s: float) -> str:
        per_s = (self._done - self._done_before) / max(now_s - self._pauses.start_s, 1e-9)
        parts = [f"{self._label}: {amount(self._done, self._total, self._unit)}"]
        if self._ends_s is not None:
            parts.append(left(self._ends_s, now_s))
        elif self._total and per_s and self._done < self._total:
            parts.append(f"{duration((self._total - self._done) / per_s)} left")
        parts.append(self._note or pace(per_s, self._unit))
        return ", ".join(part for part in parts if part)


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = None if task.total is None else int(task.total)
        text = amount(int(task.completed), total, task.fields.get("unit", ""))
        return Text(text, style="progress.download")


class _TimeLeft(TimeRemainingColumn):
    """Nothing for work whose end is not known, so that the time gone is not read as the time left.

    Nothing once it is over, done or not, either: what stays on the screen waits for nothing.
    """

    def render(self, task: Task) -> Text:
        if task.fields.get("over"):
            return Text()
        if (ends_s := task.fields.get("ends_s")) is not None:
            return Text(left(ends_s, time.monotonic()), style="progress.remaining")
        text = super().render(task)
        known = not task.finished and not text.plain.startswith("-")
        return text.append(" left") if text.plain and known else Text()


class _NoteOrRate(ProgressColumn):
    def render(self, task: Task) -> Text:
        note = task.fields.get("note")
        return Text(note or pace(task.finished_speed or task.speed or 0.0, task.fields.get("unit", "")))


class Bars(Progress):
    """Lines redrawn at a terminal: a bar for each piece of work, one inside another below it."""

    def __init__(self, target: Console, redraws_per_s: float = 10.0) -> None:
        texts = (_Amount, TimeElapsedColumn, _TimeLeft, _NoteOrRate)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),  # the one column that gives way where a line is too long
            *(text(table_column=Column(no_wrap=True)) for text in texts),
        )
        super().__init__(*columns, console=target, refresh_per_second=redraws_per_s)


def terminal() -> Console | None:
    """The console where lines can be redrawn: None where nobody watches, or where others are being redrawn."""
    target = console()
    # FORCE_COLOR, which a notebook sets for what it starts, lets rich take a pipe for a terminal.
    is_free = shown.get() is None and target.is_interactive and target.file.isatty()
    return target if is_free else None


@contextmanager
def live(bars: Bars) -> Iterator[None]:
    """Redraw `bars` while the block runs: bars opened inside become lines of it, log lines go above it."""
    with bars:
        before = shown.set(bars)
        try:
            yield
        finally:
            shown.reset(before)


@contextmanager
def bar(label: str, total: int | None, *, done: int = 0, unit: Unit = "", show: bool = True) -> Iterator[Bar]:
    """Show progress over `total` pieces (None: unknown), of which `done` are behind already.

    At a terminal a live bar with rate and time left, and inside another live one a line of that, gone when its
    work is done; elsewhere a line now and then (`Pauses`). `show=False`, and every process but the first of
    several, shows nothing.
    """
    show = show and is_first_process()
    if show and (around := shown.get()) is not None:
        task = around.add_task(label, total=total, completed=done, note="", unit=unit)
        try:
            yield Bar(label, total, done, (around, task), unit=unit)
        finally:
            around.remove_task(task)
    elif show and (target := terminal()) is not None:
        bars = Bars(target)
        with live(bars):
            task = bars.add_task(label, total=total, completed=done, note="", unit=unit)
            try:
                yield Bar(label, total, done, (bars, task), unit=unit)
            finally:
                bars.update(task, over=True)
    else:
        yield Bar(label, total, done, unit=unit, silent=not show)


@contextmanager
def working(label: str) -> Iterator[None]:
    """Show that something is under way whose pieces cannot be counted, and say how long it took if that was long.

    At a terminal a bar with the time gone; elsewhere a line after PLAIN_LINE_EVERY_S.
    """
    start_s = time.monotonic()
    watched = shown.get() is not None or terminal() is not None
    still = threading.Timer(PLAIN_LINE_EVERY_S, log.info, ("%s: under way", label))
    still.daemon = True
    if is_first_process() and not watched:
        still.start()
    try:
        with bar(label, None):
            yield
    finally:
        still.cancel()
    took_s = time.monotonic() - start_s
    if is_first_process() and took_s >= WORTH_A_LINE_S:
        log.info("%s: took %s", label, duration(took_s))


@contextmanager
def library_bars(label: str, *libraries: Any) -> Iterator[None]:
    """Wrap work during which libraries draw bars of their own, such as a download.

    libraries: modules with huggingface_hub's and datasets' functions that switch their bars off and on.
    Where somebody watches a terminal, the libraries' bars are what is seen; elsewhere, and in every process but
    the first of several, they are off, and lines say that the work is under way and how long it took. What a
    person switched off stays off.
    """
    if is_first_process() and terminal() is not None:
        yield
        return
    silenced = [library for library in libraries if not library.are_progress_bars_disabled()]
    for library in silenced:
        library.disable_progress_bars()
    try:
        with working(label):
            yield
    finally:
        for library in silenced:
            library.enable_progress_bars()


def left(ends_s: float, now_s: float) -> str:
    """`12 min left`; nothing once the time is over."""
    return f"{duration(ends_s - now_s)} left" if ends_s > now_s else ""


def is_first_process() -> bool:
    """Whether this is the first of the processes that a launcher started; the others show a person nothing."""
    return os.environ.get("RANK", "0") == "0"
