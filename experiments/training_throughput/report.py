"""From step times to a table and a picture. Nothing here knows how anything was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

GIB = 2**30


@dataclass(frozen=True)
class Row:
    """One contender at one point of the grid."""

    contender: str
    batch: int
    length: int
    dim: int
    precision: str = ""
    """Of matrix products."""
    tokens_per_s: float | None = None
    """Median over the timed steps of a step's tokens (padding not counted) by its seconds."""
    ratio: float | None = None
    """To the reference's tokens/s, both from turns that alternated."""
    step_s: float | None = None
    """Median."""
    step_s_p10: float | None = None
    step_s_p90: float | None = None
    peak_bytes: int | None = None
    """On a GPU the most that torch held at once; on a CPU the process's resident memory at its most."""
    mfu: float | None = None
    """Model FLOP utilization, by tracking.utilization's count and the rate measured in the same precision."""
    start_s: float | None = None
    """From the start of its process: imports, base, adapters."""
    first_step_s: float | None = None
    compile_s: float | None = None
    loss: float | None = None
    """Of the first step, on the same tokens, with the same adapters."""
    gradient_norm: float | None = None
    loss_last: float | None = None
    """Of the last step; every contender took as many."""
    loss_difference: float | None = None
    """Of the first step's loss from the reference's, relative."""
    gradient_difference: float | None = None
    agrees: bool | None = None
    """Both differences are within what formats and precisions explain."""
    steps: int = 0
    note: str | None = None
    """How its steps differ from what was asked for."""
    problem: str | None = None
    """Why nothing was measured."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Interpolated between the two nearest values, as numpy does it by default."""
    return float(np.percentile(values, percent))


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def ratio(own: float | None, reference: float | None) -> float | None:
    """None where either is not known."""
    return own / reference if own is not None and reference else None


def relative_difference(own: float, reference: float) -> float:
    return abs(own - reference) / abs(reference)


def ratios_to(row: Row, rows: Sequence[Row], peer: str) -> float | None:
    """A row's tokens/s over a peer's at the same point.

    Both by way of the reference where each alternated with it: the machine's state then falls out.
    """
    at_point = [
        other
        for other in rows
        if other.contender == peer
        and (other.batch, other.length, other.dim) == (row.batch, row.length, row.dim)
    ]
    if not at_point:
        return None
    (other,) = at_point
    if row.ratio is not None and other.ratio is not None:
        return ratio(row.ratio, other.ratio)
    return ratio(row.tokens_per_s, other.tokens_per_s)


def table(rows: Sequence[Row], peers: Sequence[str]) -> str:
    """Markdown. peers: names of contenders, each of which gets a column of ratios; the first is the reference."""
    columns = [
        "batch x tokens, dim",
        "contender",
        "tokens/s",
        *(f"x {peer}" for peer in peers),
        "step, median (p10-p90)",
        "peak memory",
        "MFU",
        "loss (difference)",
        "gradient norm (difference)",
        "first step",
        "compile",
        "start-up",
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"{row.batch} x {row.length}, {row.dim}", row.contender]
        if row.problem is not None:
            cells += [f"{row.problem}", *[""] * (len(columns) - 3)]
        else:
            cells += [
                _number(row.tokens_per_s, ",.0f"),
                *(_number(ratios_to(row, rows, peer), ".2f") for peer in peers),
                f"{_milliseconds(row.step_s)} "
                f"({_milliseconds(row.step_s_p10)}-{_milliseconds(row.step_s_p90)}) ms",
                f"{row.peak_bytes / GIB:.2f} GiB" if row.peak_bytes is not None else "",
                _number(row.mfu, ".1%"),
                _compared(row.loss, row.loss_difference, row.agrees),
                _compared(row.gradient_norm, row.gradient_difference, row.agrees),
                _number(row.first_step_s, ".1f", " s"),
                _number(row.compile_s or None, ".1f", " s"),
                _number(row.start_s, ".1f", " s"),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [
        f"{row.batch} x {row.length}, {row.dim}, {row.contender}: {row.note}" for row in rows if row.note
    ]
    return "\n".join(lines + [f"\n{note}" for note in notes])


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:,.1f}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def _compared(value: float | None, difference: float | None, agrees: bool | None) -> str:
    if value is None:
        return ""
    if difference is None:
        return f"{value:.4f}"
    return f"{value:.4f} ({100 * difference:.3g} %{'' if agrees else ', DISAGREES'})"


def write(rows: Sequence[Row], peers: Sequence[str], about: dict[str, Any], folder: Path) -> None:
    """results.json, results.md and results.png; after every point, so that a stopped run leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {"about": about, "rows": [asdict(row) for row in rows]}
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    named = "\n".join(f"- {key}: {value}" for key, value in about.items())
    (folder / "results.md").write_text(f"{named}\n\n{table(rows, peers)}\n", encoding="utf-8")
    draw(rows, peers, folder / "results.png")


def draw(rows: Sequence[Row], peers: Sequence[str], picture: Path) -> None:
    """Tokens/s of each contender at the first point, and over the length where there are several."""
    measured = [row for row in rows if row.tokens_per_s is not None]
    if not measured:
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    first = measured[0]
    here = [r for r in measured if (r.batch, r.length, r.dim) == (first.batch, first.length, first.dim)]
    over = [r for r in measured if (r.batch, r.dim) == (first.batch, first.dim)]
    lengths = sorted({row.length for row in over})
    panels = 2 if len(lengths) > 1 else 1
    figure, axes = plt.subplots(
        1, panels, figsize=(7 * panels, 0.4 * len(here) + 1.8), layout="constrained", squeeze=False
    )
    bars = axes[0][0]
    for place, row in enumerate(here):
        assert row.tokens_per_s is not None
        color = "C0" if row.contender.startswith("ours") else "C7"
        bars.barh(place, row.tokens_per_s, color=color)
        against = ratios_to(row, rows, peers[0]) if peers else None
        words = f" {row.tokens_per_s:,.0f}" + (f" ({against:.2f}x)" if against is not None else "")
        bars.text(row.tokens_per_s, place, words, va="center")
    bars.set_yticks(range(len(here)), [row.contender for row in here])
    bars.invert_yaxis()
    bars.margins(x=0.25)
    bars.set(xlabel="tokens/s", title=f"{first.batch} x {first.length} tokens, dim {first.dim}")
    if panels == 2:
        lines = axes[0][1]
        for contender in dict.fromkeys(row.contender for row in over):
            own = sorted((r for r in over if r.contender == contender), key=lambda r: r.length)
            style = "o-" if contender.startswith("ours") else "s--"
            lines.plot([r.length for r in own], [r.tokens_per_s for r in own], style, label=contender)
        lines.set(xscale="log", xlabel="tokens per row", ylabel="tokens/s")
        lines.set_ylim(bottom=0)
        lines.set_xticks(lengths, [str(length) for length in lengths])
        lines.minorticks_off()
        lines.grid(alpha=0.3)
        lines.legend(fontsize="small")
    figure.savefig(picture, dpi=150)
    plt.close(figure)
