"""What a sweep's runs reach for what they train: the best value against the number of trained parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from summarizer.reports.budget import KIND
from summarizer.reports.plots import footnotes, heading, short
from summarizer.reports.sentences import metric_name, metric_unit
from summarizer.runs.record import RunRecord
from summarizer.runs.settings import SweepAxes
from summarizer.sweeps.record import SweepRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUESTION = "What do more trained parameters buy?"
NOTE = "The line: what no run of fewer parameters beats. Hollow: not trained to the end."


def sized_runs(record: SweepRecord) -> list[tuple[int, float, RunRecord]]:
    """Parameters, best value and run of each that has both; none where all train as many."""
    sized = [
        (run.trainable_parameters, run.best.value, run)
        for run in record.runs
        if run.best is not None and run.trainable_parameters and run.status != "failed"
    ]
    return sized if len({parameters for parameters, *_ in sized}) > 1 else []


def front(record: SweepRecord) -> list[tuple[int, float]]:
    """Parameters and best value of the runs to their end that none of fewer or as few is better than."""
    lower = record.metric.best == "min"
    done = [(size, value) for size, value, run in sized_runs(record) if run.status == "completed"]
    kept: list[tuple[int, float]] = []
    for size, value in sorted(done, key=lambda point: (point[0], point[1] if lower else -point[1])):
        if not kept or (value < kept[-1][1] if lower else value > kept[-1][1]):
            kept.append((size, value))
    return kept


def draw_pareto(record: SweepRecord, swept: SweepAxes) -> Figure:
    """The figure of runs of at least two sizes, for `savefig`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    sized = sized_runs(record)
    kind_of = {run.folder: swept.of[run.folder][KIND].text if KIND in swept.keys else "" for *_, run in sized}
    kinds = sorted(set(kind_of.values()))
    for number, kind in enumerate(kinds):
        own = [point for point in sized if kind_of[point[2].folder] == kind]
        color = f"C{number % 10}"
        marker = "os^DvP"[number // 10 % 6] if len(kinds) > 10 else "o"
        for finished in (True, False):
            points = [point for point in own if (point[2].status == "completed") is finished]
            axes.plot(
                [size for size, *_ in points],
                [value for _, value, _ in points],
                marker,
                ms=6,
                mec=color,
                mfc=color if finished else "none",
                label=short(kind) if kind and finished else None,
            )
    if joined := front(record):
        joined.append((max(size for size, *_ in sized), joined[-1][1]))
        axes.plot(*zip(*joined, strict=True), color="0.4", lw=1, drawstyle="steps-post", zorder=1)
    axes.set(xscale="log", xlabel="trained parameters")
    axes.xaxis.set_major_locator(LogLocator(subs=_ticks([size for size, *_ in sized])))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.1)
    axes.set_ylabel(f"best {metric_name(record.metric)}\n({metric_unit(record.metric)})")
    outside = _limit(axes, sized)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if any(kinds):
        axes.legend(frameon=False, fontsize="small", ncols=2)
    heading(figure, QUESTION)
    footnotes(figure, [NOTE, f"Runs outside the picture: {outside}."] if outside else [NOTE])
    return figure


def _ticks(sizes: Sequence[int]) -> tuple[float, ...]:
    """The figures of each decade that are labelled: the more, the fewer decades there are."""
    ratio = max(sizes) / min(sizes)
    return (1.0,) if ratio > 1000 else (1.0, 2.0, 5.0) if ratio > 10 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)


def _limit(axes: Axes, sized: Sequence[tuple[int, float, RunRecord]]) -> int:
    """Keep what diverged from flattening the rest; how many points that leaves out."""
    done = [value for _, value, run in sized if run.status == "completed"]
    if not done:
        return 0
    margin = 0.5 * (max(done) - min(done)) or 0.05
    bottom, top = min(done) - margin, max(done) + margin
    axes.set_ylim(bottom, top)
    return sum(not bottom <= value <= top for _, value, _ in sized)
