"""The curves of a sweep: losses of all runs over their steps, and the expected best value over the trials.

Losses are colored by the swept key that tells most of the runs apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from summarizer.reports.budget import QUESTION, budget_note
from summarizer.reports.compared import history_of
from summarizer.reports.plots import FAILED, footnotes, heading, short
from summarizer.reports.sentences import course_question, metric_name, metric_unit, sweep_answer
from summarizer.runs.record import RunRecord
from summarizer.runs.settings import SweepAxes, Value
from summarizer.sweeps.record import SweepRecord
from summarizer.tracking.metrics import METRICS, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMOOTHED_FRACTION = 20
"""Training losses are means over the last 1/20 of the longest run's steps."""
LINES = ("-", "--", ":", "-.")
ENDS = {"failed": ("x", "failed"), "stopped": ("s", "stopped before its end")}


@dataclass(frozen=True)
class Curve:
    run: RunRecord
    train: list[tuple[int, float]]
    val: list[tuple[int, float]]


def draw_curves(sweep: Path, record: SweepRecord, swept: SweepAxes) -> Figure:
    """The figure, for `savefig`: training losses, smoothed, beside validation losses.

    Raises ConfigError where a run's metrics.jsonl is broken.
    """
    from matplotlib.figure import Figure

    curves = [read_curve(sweep, run) for run in reversed(record.ranked())]  # the best is drawn last, on top
    color_key, line_key = keys_of_styles(record, swept)
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    window = max(max((len(curve.train) for curve in curves), default=0) // SMOOTHED_FRACTION, 1)
    styles = _Styles(swept, color_key, line_key)
    for curve in curves:
        style = styles.of(curve.run)
        _plot(left, smooth(curve.train, window), style)
        _plot(right, curve.val, style | {"marker": "o", "markersize": 4})
    left.set_title(
        f"training, mean of {window} logged steps" if window > 1 else "training", fontsize="medium"
    )
    right.set_title("validation", fontsize="medium")
    left.set_ylabel("cross-entropy (nats per token)")
    for axes in (left, right):
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    _limit(left, curves, window)
    for curve in curves:
        _mark_end(left, smooth(curve.train, window), styles, curve.run)
        _mark_end(right, curve.val, styles, curve.run)
    handles = styles.legend() + _end_handles(record)
    if handles:
        figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize="small")
    heading(figure, course_question(swept.keys))
    footnotes(figure, [sweep_answer(record, swept) + (" (thick line)" if record.winner else "")])
    return figure


def read_curve(sweep: Path, run: RunRecord) -> Curve:
    """A run's losses by step, without those that were not finite: the points that the page draws too."""
    path = sweep / run.folder / METRICS
    history = history_of(read_metrics(path)) if path.is_file() else {}

    def losses(name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in history.get(name, ())]

    return Curve(run, losses("train/loss"), losses("val/loss"))


def smooth(points: Sequence[tuple[int, float]], window: int) -> list[tuple[int, float]]:
    """Each value as the mean of the last `window` values up to it; the first ones of as many as there are."""
    return [
        (step, fmean(value for _, value in points[max(0, i - window + 1) : i + 1]))
        for i, (step, _) in enumerate(points)
    ]


def keys_of_styles(record: SweepRecord, swept: SweepAxes) -> tuple[str | None, str | None]:
    """The key for colors, which explains most of the variance of the best values, and the next for line styles."""
    scored = [run for run in record.runs if run.best and run.rank]
    by_share = sorted(swept.keys, key=lambda key: -_explained(scored, swept, key))
    color = by_share[0] if by_share else None
    others = [key for key in by_share[1:] if len(swept.values(key)) <= len(LINES)]
    return color, others[0] if others else None


def _explained(runs: Sequence[RunRecord], swept: SweepAxes, key: str) -> float:
    """The share of variance between the values of a key, less what chance gives to many values (adjusted R²)."""
    groups: dict[Value, list[float]] = {}
    for run in runs:
        assert run.best is not None
        groups.setdefault(swept.of[run.folder][key], []).append(run.best.value)
    if len(runs) <= len(groups) or len(groups) < 2:
        return 0.0
    mean = fmean(value for values in groups.values() for value in values)
    total = sum((value - mean) ** 2 for values in groups.values() for value in values) / (len(runs) - 1)
    within = sum((value - fmean(values)) ** 2 for values in groups.values() for value in values)
    return 1 - within / (len(runs) - len(groups)) / total if total else 0.0


class _Styles:
    """Color by one key, line style by another."""

    def __init__(self, swept: SweepAxes, color_key: str | None, line_key: str | None) -> None:
        import matplotlib

        self._swept, self._color_key, self._line_key = swept, color_key, line_key
        ramp = matplotlib.colormaps["viridis"]
        values = swept.values(color_key) if color_key else []
        # The last tenth is too pale for a line on white.
        self._colors = {value: ramp(0.9 * i / max(len(values) - 1, 1)) for i, value in enumerate(values)}
        self._lines = dict(zip(swept.values(line_key), LINES, strict=False)) if line_key else {}

    def of(self, run: RunRecord) -> dict[str, Any]:
        values: Mapping[str, Value] = self._swept.of[run.folder]
        return {
            "color": self._colors[values[self._color_key]] if self._color_key else "#00457c",
            "linestyle": self._lines[values[self._line_key]] if self._line_key else "-",
            "linewidth": 3.0 if run.rank == 1 else 1.3,
            "alpha": 1.0 if run.rank == 1 else 0.85,
        }

    def legend(self) -> list[Any]:
        from matplotlib.lines import Line2D

        handles: list[Any] = []
        if self._color_key:
            handles.append(Line2D([], [], ls="none", label=self._color_key))
            handles += [
                Line2D([], [], color=color, lw=3, label=short(v.text)) for v, color in self._colors.items()
            ]
        if self._line_key:
            handles.append(Line2D([], [], ls="none", label=self._line_key))
            handles += [
                Line2D([], [], color="0.3", ls=line, label=short(v.text)) for v, line in self._lines.items()
            ]
        return handles


def _plot(axes: Axes, points: Sequence[tuple[int, float]], style: dict[str, Any]) -> None:
    axes.plot([step for step, _ in points], [loss for _, loss in points], **style)


def _mark_end(axes: Axes, points: Sequence[tuple[int, float]], styles: _Styles, run: RunRecord) -> None:
    """Where a run broke off; at the edge, where its loss has left the picture."""
    if not points or run.status not in ENDS:
        return
    step, loss = points[-1]
    color = FAILED if run.status == "failed" else styles.of(run)["color"]
    loss = min(loss, axes.get_ylim()[1])
    axes.plot(step, loss, ENDS[run.status][0], color=color, ms=7, mew=2, clip_on=False, zorder=5)


def _end_handles(record: SweepRecord) -> list[Any]:
    from matplotlib.lines import Line2D

    ended = {run.status for run in record.runs}
    return [
        Line2D(
            [], [], ls="none", marker=marker, mew=2, color=FAILED if status == "failed" else "0.3", label=text
        )
        for status, (marker, text) in ENDS.items()
        if status in ended
    ]


def _limit(axes: Axes, curves: Sequence[Curve], window: int) -> None:
    """What diverges leaves the picture rather than flattening the rest."""
    starts = [
        points[0][1] for curve in curves for points in (curve.val, smooth(curve.train, window)) if points
    ]
    ends = [points[-1][1] for curve in curves for points in (curve.val, curve.train) if points]
    if not starts:
        return
    lowest = min(v for curve in curves for _, v in [*curve.val, *smooth(curve.train, window)])
    highest = max(v for curve in curves for _, v in [*curve.val, *smooth(curve.train, window)])
    ceiling = max(median(starts), median(ends)) + 0.6 * (median(starts) - lowest)
    top = min(highest, ceiling) if ceiling > lowest else highest
    margin = 0.05 * (top - lowest) or 0.05
    axes.set_ylim(lowest - margin, top + margin)


# ---- the best of fewer trials ------------------------------------------------------------------------------------


def draw_budget(record: SweepRecord, swept: SweepAxes, curves: Mapping[str, list[float]]) -> Figure:
    """The figure of at least one curve, for `savefig`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for kind, values in curves.items():
        trials = range(1, len(values) + 1)
        axes.plot(trials, values, marker="o", markersize=4, label=short(kind) if kind else None)
    axes.set_xlabel("trials" + (" of one kind of adapter" if len(curves) > 1 else ""))
    axes.set_ylabel(f"expected best {metric_name(record.metric)}\n({metric_unit(record.metric)})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if any(curves):
        axes.legend(frameon=False, fontsize="small")
    heading(figure, QUESTION)
    footnotes(figure, [budget_note(record, swept)])
    return figure
