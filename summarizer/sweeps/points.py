"""Runs as points: of one swept value, or of more values, as a sampler draws them, than a grid would hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from summarizer.runs.record import RunRecord
from summarizer.sweeps.looks import DONE, FAILED, UNFINISHED, Places, Scale, run_text
from summarizer.sweeps.record import SweepRecord
from summarizer.sweeps.swept import Swept, Value
from summarizer.sweeps.wording import label, metric_name, metric_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_TEXTS = 40
"""Points that have their value written beside them; of more, only the best has."""


def draw_line(axes: Axes, record: SweepRecord, swept: Swept) -> None:
    """A point for each run over the one key that was swept, or over the runs where none was."""
    if swept.keys:
        (key,) = swept.keys
        of = {run.folder: swept.of[run.folder][key] for run in record.runs}
        places = Places(tuple(swept.values(key)))
    else:
        of = {run.folder: Value((0, float(i), ""), run.folder) for i, run in enumerate(record.runs)}
        places = Places(tuple(of.values()))
    if swept.keys and all(value.number is not None for value in places.values):
        best: dict[Value, float] = {}
        for run in record.ranked():
            if run.status == "completed" and run.best:
                best.setdefault(of[run.folder], run.best.value)
        heights = [best.get(value, math.nan) for value in places.values]  # broken where nothing completed
        axes.plot([places.of(value) for value in places.values], heights, color="0.7", zorder=1)
    for run in record.ranked():
        _draw_run(axes, record, run, places.of(of[run.folder]))
    axes.margins(x=0.1, y=0.22)
    places.apply(axes, "x")
    axes.set_xlabel(label(swept.keys[0]) if swept.keys else "run")
    axes.set_ylabel(f"best {metric_name(record.metric)}\n({metric_unit(record.metric)})")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_scatter(
    axes: Axes,
    record: SweepRecord,
    cells: Mapping[tuple[Value, Value], RunRecord],
    x: Places,
    y: Places,
    scale: Scale | None,
) -> None:
    """A point for each run at its two values, colored by the metric."""
    x.apply(axes, "x")
    y.apply(axes, "y")
    along_x = sorted(cells)
    for (across, up), run in reversed(list(cells.items())):  # the best is drawn last, on top
        at = (x.of(across), y.of(up))
        above = along_x.index((across, up)) % 2 == 0  # neighbors' texts would touch
        first = run.rank == 1
        if run.status == "failed":
            axes.plot(*at, "x", ms=9, mew=2.5, color=FAILED)
            continue
        face = scale.of(run) if scale else "0.92"
        axes.plot(
            *at,
            "o",
            ms=17 if first else 13,
            mfc=face,
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
