"""The best value of each combination of swept values: a heat map of two keys, or points where that fits better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from summarizer.reports.budget import KIND
from summarizer.reports.plots import (
    DONE,
    FAILED,
    UNFINISHED,
    Positions,
    color_bar,
    color_of,
    footnotes,
    heading,
    is_dark,
    run_text,
    short,
)
from summarizer.reports.ranking import Ranking, ranking, spanning
from summarizer.reports.sentences import (
    decimals,
    label,
    metric_name,
    metric_unit,
    question,
    sweep_answer,
)
from summarizer.runs.record import RunRecord
from summarizer.runs.settings import SweepAxes, Value
from summarizer.sweeps.record import SweepRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS, MOST_KINDS, PANELS_IN_A_ROW = 4, 12, 4
"""Values of a third key that get a heat map each, and kinds of adapters; with more, the best over them is shown."""
HATCHES = {"stopped": "///", "failed": "xxx", "running": "...", "waiting": "..."}

Shown = tuple[RunRecord, float | None]
"""A run, and the share of its color."""
Cells = Mapping[tuple[Value, Value], Shown]
"""The best run of each combination, by its values along x and along y."""


@dataclass(frozen=True)
class Layout:
    """What a heat map shows along x, along y and from panel to panel."""

    x: str
    y: str
    panels: str | None
    best_over: tuple[str, ...]
    """Keys along no axis; of runs that differ in them alone the best is shown."""


def layout_of(swept: SweepAxes) -> Layout | None:
    """Two keys along the axes, and the kind of adapter in panels, or a third key alone that has few values.

    None with fewer than two keys.
    """
    if len(swept.keys) < 2:
        return None
    x, y, *others = spanning({key: swept.values(key) for key in swept.keys})
    if KIND in others and len(swept.values(KIND)) <= MOST_KINDS:
        return Layout(x, y, KIND, tuple(key for key in others if key != KIND))
    if len(others) == 1 and len(swept.values(others[0])) <= MOST_PANELS:
        return Layout(x, y, others[0], ())
    return Layout(x, y, None, tuple(others))


def draw_heatmap(record: SweepRecord, swept: SweepAxes) -> Figure:
    """The figure of a sweep's best values, for `savefig`."""
    from matplotlib.figure import Figure

    layout = layout_of(swept)
    if layout is None:
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        draw_line(figure.add_subplot(), record, swept)
    else:
        figure = _draw_panels(record, swept, layout)
    heading(figure, question(record.metric, swept.keys))
    notes = [sweep_answer(record, swept)]
    if layout and layout.best_over:
        notes.append(f"Each cell is the best over {', '.join(layout.best_over)}.")
    footnotes(figure, notes)
    return figure


def ranked_runs(record: SweepRecord) -> Ranking:
    """The sweep's runs by their best values."""
    return ranking(
        [run.best.value if run.best else None for run in record.runs],
        [run.status for run in record.runs],
        lower_is_better=record.metric.best == "min",
        decimals=decimals(record.metric),
    )


def cells_of(
    record: SweepRecord, swept: SweepAxes, ranked: Ranking, layout: Layout, panel: Value | None
) -> Cells:
    """The best run of each combination in a panel."""
    cells: dict[tuple[Value, Value], Shown] = {}
    for i in ranked.order:
        run, values = record.runs[i], swept.of[record.runs[i].folder]
        if layout.panels is None or values[layout.panels] == panel:
            cells.setdefault((values[layout.x], values[layout.y]), (run, ranked.shares.get(i)))
    return cells


def _draw_panels(record: SweepRecord, swept: SweepAxes, layout: Layout) -> Figure:
    from matplotlib.figure import Figure

    x, y = Positions(tuple(swept.values(layout.x))), Positions(tuple(swept.values(layout.y)))
    panels: list[Value | None] = [*swept.values(layout.panels)] if layout.panels else [None]
    ranked = ranked_runs(record)
    cells = {panel: cells_of(record, swept, ranked, layout, panel) for panel in panels}
    as_points = x.to_scale or y.to_scale
    axes_of = {panel: (x, y) if as_points else _own_values(cells[panel], x, y) for panel in panels}
    shares_y = len({up for _, up in axes_of.values()}) == 1
    columns, rows = (
        (5, 6)
        if as_points
        else tuple(max(len(own[side].values) for own in axes_of.values()) for side in (0, 1))
    )
    across = min(len(panels), PANELS_IN_A_ROW)
    down = -(-len(panels) // across)
    width_in = max(2.6 + across * (1.25 * columns + 0.6), 6.4)
    height_in = max(1.6 + down * (0.8 + 0.78 * rows), 4.0)
    figure = Figure(figsize=(min(width_in, 24), min(height_in, 16)), layout="constrained")
    every = figure.subplots(down, across, squeeze=False, sharey=shares_y)
    grid = list(every.flat)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid, panels, strict=False):
        draw = draw_scatter if as_points else _draw_cells
        draw(axes, record, cells[panel], *axes_of[panel])
        axes.set_xlabel(label(layout.x))
        if layout.panels and panel:
            axes.set_title(f"{layout.panels} = {short(panel.text)}", fontsize="medium")
    for axes in every[:, 0]:
        axes.set_ylabel(label(layout.y))
    color_bar(figure, grid, record, ranked)
    return figure


def _own_values(cells: Cells, x: Positions, y: Positions) -> tuple[Positions, Positions]:
    """The values of both axes that a panel has a run of: kinds of adapters ask for rates of their own."""
    tried = [{values[side] for values in cells} for side in (0, 1)]
    own_x, own_y = (
        Positions(tuple(value for value in whole.values if value in some))
        for whole, some in zip((x, y), tried, strict=True)
    )
    return own_x, own_y


def _draw_cells(axes: Axes, record: SweepRecord, cells: Cells, x: Positions, y: Positions) -> None:
    from matplotlib.patches import Rectangle

    for (i, across), (j, up) in product(enumerate(x.values), enumerate(y.values)):
        if (across, up) not in cells:
            axes.text(i, j, "–", ha="center", va="center", color="0.6")
            continue
        run, share = cells[across, up]
        face = color_of(share)
        hatch = HATCHES.get(run.status)
        axes.add_patch(
            Rectangle((i - 0.5, j - 0.5), 1, 1, facecolor=face, hatch=hatch, edgecolor="white", lw=1.5)
        )
        axes.text(
            *(i, j, run_text(run, record)),
            ha="center",
            va="center",
            color="white" if is_dark(face) else "black",
            fontweight="bold" if run.rank == 1 else "normal",
            fontsize="medium" if run.status == "completed" else "small",
        )
        if run.rank == 1:
            for color, width, above in (("white", 6, 3), ("black", 3, 4)):
                inner = Rectangle((i - 0.46, j - 0.46), 0.92, 0.92, fill=False, ec=color, lw=width)
                axes.add_patch(inner).set_zorder(above)
    x.apply(axes, "x")
    y.apply(axes, "y")
    axes.set(xlim=(-0.5, len(x.values) - 0.5), ylim=(-0.5, len(y.values) - 0.5))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


MOST_TEXTS = 40
"""Points that have their value written beside them; of more, only the best has."""


def draw_line(axes: Axes, record: SweepRecord, swept: SweepAxes) -> None:
    """A point for each run over the one key that was swept, or over the runs where none was."""
    if swept.keys:
        (key,) = swept.keys
        of = {run.folder: swept.of[run.folder][key] for run in record.runs}
        positions = Positions(tuple(swept.values(key)))
    else:
        of = {run.folder: Value((0, float(i), ""), run.folder) for i, run in enumerate(record.runs)}
        positions = Positions(tuple(of.values()))
    if swept.keys and all(value.number is not None for value in positions.values):
        best: dict[Value, float] = {}
        for run in record.ranked():
            if run.status == "completed" and run.best:
                best.setdefault(of[run.folder], run.best.value)
        heights = [best.get(value, math.nan) for value in positions.values]  # broken where nothing completed
        axes.plot([positions.of(value) for value in positions.values], heights, color="0.7", zorder=1)
    for run in record.ranked():
        _draw_run(axes, record, run, positions.of(of[run.folder]))
    axes.margins(x=0.1, y=0.22)
    positions.apply(axes, "x")
    axes.set_xlabel(label(swept.keys[0]) if swept.keys else "run")
    axes.set_ylabel(f"best {metric_name(record.metric)}\n({metric_unit(record.metric)})")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_scatter(axes: Axes, record: SweepRecord, cells: Cells, x: Positions, y: Positions) -> None:
    """A point for each run at its two values, colored by the metric."""
    x.apply(axes, "x")
    y.apply(axes, "y")
    along_x = sorted(cells)
    for (across, up), (run, share) in reversed(list(cells.items())):  # the best is drawn last, on top
        at = (x.of(across), y.of(up))
        above = along_x.index((across, up)) % 2 == 0  # neighbors' texts would touch
        first = run.rank == 1
        if run.status == "failed":
            axes.plot(*at, "x", ms=9, mew=2.5, color=FAILED)
            continue
        axes.plot(
            *at,
            "o",
            ms=17 if first else 13,
            mfc=color_of(share),
            mec="black" if first else "0.5",
            mew=3 if first else 0.8,
        )
        if first or len(cells) <= MOST_TEXTS:
            axes.annotate(
                run_text(run, record),
                at,
                xytext=(0, 12 if above else -12),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                fontsize="small",
                fontweight="bold" if first else "normal",
            )
    axes.margins(0.1, 0.12)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_run(axes: Axes, record: SweepRecord, run: RunRecord, x: float) -> None:
    first, done = run.rank == 1, run.status == "completed"
    if run.best is None or run.status == "failed":
        axes.annotate(
            run_text(run, record),
            (x, 0.03),
            xycoords=axes.get_xaxis_transform(),
            ha="center",
            color=FAILED if run.status == "failed" else UNFINISHED,
        )
        return
    edge = "black" if first else DONE if done else UNFINISHED
    axes.plot(
        x, run.best.value, "o", ms=9, mfc=DONE if done else "white", mec=edge, mew=2.5 if first else 1.2
    )
    if first or len(record.runs) <= MOST_TEXTS:
        axes.annotate(
            run_text(run, record),
            (x, run.best.value),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontweight="bold" if first else "normal",
            fontsize="medium" if done else "small",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )
