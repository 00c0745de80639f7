"""What a person sees while a group of trials trains: a line per trial and one bar, or a line now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.text import Text

from summarizer.console import progress
from summarizer.console.amounts import duration
from summarizer.console.trial_lines import State, TrialLine, counted, leader, number, table

REDRAWS_PER_S = 4.0
LOG_LINES = 3
"""Lines of a terminal's height that are left to the log above the display."""

log = logging.getLogger(__name__)


def trial_labels(overrides: Sequence[Sequence[str]], names: Sequence[str]) -> list[str]:
    """Each trial's overrides in one line, without those that all share, unless nothing else is left of one.

    names: of the runs, to tell apart those that are configured alike.
    """
    shared = set.intersection(*map(set, overrides)) if overrides else set()
    own = [[part for part in parts if part not in shared] for parts in overrides]
    labels = [" ".join(mine or parts) or "defaults" for mine, parts in zip(own, overrides, strict=True)]
    return [
        " ".join([*mine, f"run {name}"]) if labels.count(label) > 1 else label
        for label, mine, name in zip(labels, own, names, strict=True)
    ]


@contextmanager
def trial_display(
    labels: Sequence[str],
    totals: Sequence[int],
    *,
    metric: str,
    done: Sequence[int] | None = None,
    show: bool = True,
) -> Iterator[TrialDisplay]:
    """Show a group while it trains: a trial for each label, all waiting at first.

    totals: the steps that each trial is to take. metric: whose values `evaluated` gets; the lowest is best of a
    loss, the highest of others. done: steps behind each trial already, taken by an earlier process.
    At a terminal a table, redrawn; elsewhere a line now and then. A trial alone gets a bar.
    `show=False` (other ranks) shows nothing.
    """
    behind = done or [0] * len(labels)
    lines = [
        TrialLine(" ".join(label.split()), total, step)
        for label, total, step in zip(labels, totals, behind, strict=True)
    ]
    display = TrialDisplay(lines, metric)
    if len(lines) == 1:
        with progress.bar("training", totals[0], done=behind[0], show=show) as display.bar:
            yield display
    elif show and (target := progress.terminal()) is not None:
        bars = _TrialBars(display, target)
        with progress.live(bars):
            try:
                yield display
            finally:
                bars.whole = True
    else:
        display.plain = show
        yield display


class TrialDisplay:
    """Takes what happens to the trials, each by its index among the labels, in microseconds."""

    def __init__(self, lines: list[TrialLine], metric: str) -> None:
        self.lines, self.metric = lines, metric
        self.tokens_per_s: float | None = None
        self.ends_s: float | None = None
        """When all trials that work or wait are trained and evaluated, by time.monotonic(); None where unknown."""
        self.plain = False
        self.bar: progress.Bar | None = None
        self._steps_taken = 0
        self._aside_s = 0.0
        """Seconds that went into evaluations rather than into steps."""
        self._pace = Pace()
        self._pauses = progress.Pauses()

    def add(self, label: str, total: int, step: int) -> None:
        """One more trial, which waits, with so many steps behind it."""
        self.lines.append(TrialLine(" ".join(label.split()), total, step))

    def state(self, index: int, state: State) -> None:
        self.lines[index].state = state

    def step(self, index: int, step: int, loss: float) -> None:
        """A trial took a step: `step` counts from 1, over all processes that trained it."""
        line = self.lines[index]
        line.step, line.loss = step, loss
        self._steps_taken += 1

    @contextmanager
    def evaluating(self, indices: Collection[int]) -> Iterator[None]:
        """During the block, these trials are evaluated and none takes a step."""
        before = {index: self.lines[index].state for index in indices}
        for index in indices:
            self.state(index, "evaluating")
        begun_s = time.monotonic()
        try:
            yield
        finally:
            self._aside_s += time.monotonic() - begun_s
            for index, state in before.items():
                self.state(index, state)

    def evaluated(self, index: int, value: float, best: float | None, best_step: int | None) -> None:
        line = self.lines[index]
        line.value, line.best, line.best_step = value, best, best_step

    def group(self, tokens_per_s: float, evaluations_s: float = 0.0) -> None:
        """Note how fast the group is, once after every trial took its step.

        tokens_per_s: of all trials together. evaluations_s: what the evaluations still to come will take.
        """
        now_s = time.monotonic()
        self.tokens_per_s = tokens_per_s
        self._pace.mark(now_s - self._aside_s, self._steps_taken)
        rate = self._pace.steps_per_s
        ahead = sum(line.steps_ahead for line in self.lines)
        left_s = ahead / rate + evaluations_s if rate else 0.0
        self.ends_s = now_s + left_s if left_s else None
        if self.bar is not None:
            self.bar.expect(self.ends_s)
            self.bar.note(f"loss {number(self.lines[0].loss)}, {tokens_per_s:,.0f} tokens/s")
            self.bar.advance()
        elif self.plain and self._pauses.over(now_s):
            log.info(self.describe())

    @property
    def left_s(self) -> float | None:
        """Seconds until then; None where that is not known, past, or nothing is left to do."""
        if self.ends_s is None or not any(line.goes_on for line in self.lines):
            return None
        left_s = self.ends_s - time.monotonic()
        return left_s if left_s > 0 else None

    @property
    def steps(self) -> tuple[int, int]:
        """Steps behind the group and in all. What a stopped, failed or paused trial leaves is not counted."""
        done = sum(line.step for line in self.lines)
        return done, done + sum(line.steps_ahead for line in self.lines)

    def describe(self) -> str:
        """`training 8 trials: step 120-124 of 360 each, 33 % done, 12 s left, 9,400 tokens/s, best ...`."""
        active = [line for line in self.lines if line.active]
        others = counted([line for line in self.lines if not line.active])
        done, total = self.steps
        parts = [f"{percent(done, total)} done"]
        if active:
            of = span([line.total for line in active])
            parts.insert(0, f"step {span([line.step for line in active])} of {of} each")
        if (left_s := self.left_s) is not None:
            parts.append(f"{duration(left_s)} left")
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:,.0f} tokens/s")
        if (first := leader(self.lines, self.metric)) is not None:
            parts.append(f"best {self.metric} {number(first.best)} ({first.label})")
        named = f"{len(active)} of {len(self.lines)} trials ({others})" if others else f"{len(active)} trials"
        return f"training {named}: {', '.join(parts)}"


class Pace:
    """Steps per second of all trials together, over the later half to three quarters of this process's time.

    So trials that leave or come are soon seen in it. Evaluations are no part of that time, what else lies between
    two steps, such as saving, is spread over the steps around it. The first mark only starts the clock: before it
    lies what is paid once, such as compiling.
    """

    def __init__(self) -> None:
        self.steps_per_s: float | None = None
        self._marks: list[tuple[float, int]] = []
        """The first, where the rate counts from, and where it will count from next: (seconds, steps taken)."""

    def mark(self, now_s: float, steps_taken: int) -> None:
        mark = (now_s, steps_taken)
        if not self._marks:
            self._marks = [mark, mark, mark]
            return
        first, since, later = self._marks
        if now_s - first[0] >= 2 * (later[0] - first[0]):
            since = later
            self._marks = [first, since, mark]
        if now_s > since[0]:
            self.steps_per_s = (steps_taken - since[1]) / (now_s - since[0])


class _TrialBars(progress.Bars):
    """The table and the group's bar, above the bars of work such as an evaluation."""

    def __init__(self, display: TrialDisplay, target: Console) -> None:
        self._display = display
        self.whole = False
        """Every trial, whatever the height: for the last drawing, which stays."""
        super().__init__(target, REDRAWS_PER_S)

    def get_renderables(self) -> Iterable[RenderableType]:
        tasks = self.tasks
        yield _Drawn(self._display, whole=self.whole, below=len(tasks))
        if tasks:
            yield self.make_tasks_table(tasks)


class _Drawn:
    """A group's table and bar, as wide and high as the terminal lets them be."""

    def __init__(self, display: TrialDisplay, *, whole: bool, below: int) -> None:
        self._display, self._whole, self._below = display, whole, below

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        display, width = self._display, options.max_width
        rows = console.height - LOG_LINES - 2 - self._below  # two: the header and the bar
        if self._whole or rows > 0:
            yield from table(display.lines, display.metric, width, None if self._whole else rows)
        done, total = display.steps
        head = f"{len(display.lines)} trials "
        tails = [f" {percent(done, total):>5}", f"  {done:>{len(f'{total:,}')},}/{total:,} steps"]
        if display.tokens_per_s is not None:
            tails.append(f"  {display.tokens_per_s:,.0f} tokens/s")
        if (left_s := display.left_s) is not None:
            tails.insert(1, f"  {duration(left_s)} left")
        while len(tails) > 1 and len(head) + len("".join(tails)) > width - 8:
            tails.pop()
        yield Text(head, no_wrap=True, overflow="crop", end="")
        yield ProgressBar(total or 1, done, width=max(min(40, width - len(head) - len("".join(tails))), 1))
        yield Text("".join(tails), no_wrap=True, overflow="crop")


def percent(done: int, total: int) -> str:
    return f"{100 * done // total if total else 100} %"


def span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"
