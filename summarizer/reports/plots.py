"""What the pictures of a sweep share: positions along an axis, colors of values, texts of runs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from summarizer.reports.ranking import Ranking
from summarizer.reports.sentences import metric_name, metric_unit, shown
from summarizer.runs.record import RunRecord
from summarizer.runs.settings import Value
from summarizer.sweeps.record import SweepRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = "cividis"
"""Made to look the same to people with and without color vision deficiency (Nuñez et al. 2018)."""
DONE, FAILED, UNFINISHED, UNCOLORED = "#00457c", "#b3261e", "0.4", "0.92"
MOST_CATEGORIES = 12
"""Different numbers that get a position each along an axis; more of them, as a sampler draws, lie to scale."""
LOG_RATIO = 20
"""From the smallest to the largest number, above which a scale is logarithmic."""
LONGEST_LABEL = 24
"""Characters that a value takes on an axis; a longer one is cut."""
BOLD_PER_INCH, SMALL_PER_INCH = 9, 13
"""Characters of a heading and of a note that fit in an inch."""


@dataclass(frozen=True)
class Positions:
    """Where the values of a key lie along an axis."""

    values: tuple[Value, ...]

    @property
    def to_scale(self) -> bool:
        return len(self.values) > MOST_CATEGORIES and all(value.number is not None for value in self.values)

    def of(self, value: Value) -> float:
        if self.to_scale and value.number is not None:
            return value.number
        return float(self.values.index(value))

    def apply(self, axes: Axes, side: Literal["x", "y"]) -> None:
        """Limits, scale and labels of the axis."""
        if self.to_scale:
            numbers = [value.number for value in self.values if value.number is not None]
            if numbers[0] > 0 and numbers[-1] / numbers[0] > LOG_RATIO:
                from matplotlib.ticker import FuncFormatter

                axes.set(**{f"{side}scale": "log"})
                axis = axes.xaxis if side == "x" else axes.yaxis
                axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
            return
        count = len(self.values)
        labels = [short(value.text) for value in self.values]
        axes.set(
            **{f"{side}lim": (-0.6, count - 0.4), f"{side}ticks": range(count), f"{side}ticklabels": labels}
        )
        if side == "x" and (max(map(len, labels), default=0) > 12 or sum(map(len, labels)) > 60):
            axes.tick_params(axis="x", rotation=30)
            for text in axes.get_xticklabels():
                text.set(ha="right", rotation_mode="anchor")


def color_of(share: float | None) -> Any:
    """A color of `ranking`'s shares: the best is the brightest; gray for a run that is not compared."""
    import matplotlib

    return UNCOLORED if share is None else matplotlib.colormaps[COLORS](share)


def color_bar(figure: Figure, axes: Sequence[Axes], record: SweepRecord, ranked: Ranking) -> None:
    """What the colors mean, beside the axes; nothing where no run has one."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if ranked.worst is None or ranked.best is None:
        return
    low, high = sorted((ranked.worst, ranked.best))
    lower_is_better = record.metric.best == "min"
    colors = matplotlib.colormaps[COLORS + ("_r" if lower_is_better else "")]
    norm = Normalize(low, high) if low < high else Normalize(low - 0.5, high + 0.5)
    extend: Literal["neither", "min", "max"] = (
        "neither" if not ranked.clipped else "max" if lower_is_better else "min"
    )
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=list(axes), extend=extend, pad=0.02)
    bar.set_label(f"best {metric_name(record.metric)}\n({metric_unit(record.metric)})")
    bar.outline.set_visible(False)


def heading(figure: Figure, text: str) -> None:
    width_in = figure.get_size_inches()[0]
    figure.suptitle(textwrap.fill(text, int(width_in * BOLD_PER_INCH)), fontweight="bold")


def footnotes(figure: Figure, notes: Sequence[str]) -> None:
    width = int(figure.get_size_inches()[0] * SMALL_PER_INCH)
    figure.supxlabel("\n".join(textwrap.fill(note, width) for note in notes), fontsize="small")


def run_text(run: RunRecord, record: SweepRecord) -> str:
    """A run in a cell: its best value, and how it stands where it did not complete."""
    value = shown(record.metric, run.best.value) if run.best else ""
    if run.status == "completed":
        return value or "no evaluation"
    if run.status == "failed":
        return "×\nfailed"
    where = f"\nat step {run.steps}" if run.status == "stopped" and run.steps else ""
    return "\n".join(part for part in (value, run.status + where) if part)


def short(text: str) -> str:
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def is_dark(color: Any) -> bool:
    """Whether white text reads better on it: luminance below 0.4 (ITU-R BT.709 weights)."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.4
