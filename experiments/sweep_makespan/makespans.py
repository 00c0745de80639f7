"""From trials' times to rows, a table and a picture. Nothing here knows how anything was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

from contenders import FUSED, SYSTEMS, TrialTime

SAME_LOSS = 0.02
"""Relative; of the untrained base on the same rows. Weight formats and bf16 products explain as much
(experiments/quantization_error has int8's loss 0.4 % off, experiments/training_throughput allows 1.5 %)."""


@dataclass(frozen=True)
class Row:
    """One sweep of one system."""

    system: str
    tokens_per_row: int | None
    """The longest example."""
    trials: int
    turn: int
    ran: int = 0
    """Trials that really ran; the others are counted as the mean of those after the first."""
    makespan_s: float | None = None
    """From the command to the last summary."""
    command_s: float | None = None
    """Until the command had ended; None where it was not run for this number of trials alone."""
    startup_s: float = 0.0
    training_s: float = 0.0
    evaluation_s: float = 0.0
    """And all else: checkpoints, saving, the end of processes."""
    tokens: int = 0
    """Trained on, by all trials."""
    groups: int = 0
    val_losses: tuple[float | None, ...] = ()
    base_losses: tuple[float | None, ...] = ()
    """Of the untrained base, on the rows of the final scores."""
    base_rouge1: tuple[float | None, ...] = ()
    trainable_parameters: tuple[int | None, ...] = ()
    peak_bytes: int | None = None
    problem: str | None = None
    """Why nothing was measured."""


def counted(values: Sequence[float], trials: int) -> float:
    """The sum over so many trials; beyond those there are, each as the mean of those after the first."""
    later = values[1:] or values
    return sum(values[:trials]) + max(0, trials - len(values)) * mean(later)


def row_of(
    system: str,
    tokens_per_row: int | None,
    turn: int,
    trials: int,
    times: Sequence[TrialTime],
    command_s: float | None,
) -> Row:
    """times: of the sweep's first trials, at least one; of all of them where they were fused."""
    times = times[:trials]
    not_run = trials - len(times)
    ends = [0.0, *sorted(time.end_s for time in times)]
    makespan_s = counted([end - before for before, end in pairwise(ends)], trials)
    groups: dict[int, list[TrialTime]] = {}
    for time in times:
        groups.setdefault(time.group, []).append(time)
    # Trials of a group wait for the same start-up, and train in the same seconds as long as all have a place.
    startup_s, training_s = (
        counted(
            [max(getattr(time, part) for time in group) for group in groups.values()], len(groups) + not_run
        )
        for part in ("startup_s", "training_s")
    )
    return Row(
        system,
        tokens_per_row,
        trials,
        turn,
        ran=len(times),
        makespan_s=makespan_s,
        command_s=None if not_run else command_s,
        startup_s=startup_s,
        training_s=training_s,
        evaluation_s=makespan_s - startup_s - training_s,
        tokens=round(counted([time.tokens for time in times], trials)),
        groups=len(groups) + not_run,
        val_losses=tuple(time.val_loss for time in times),
        base_losses=tuple(time.base_loss for time in times),
        base_rouge1=tuple(time.base_rouge1 for time in times),
        trainable_parameters=tuple(time.trainable_parameters for time in times),
        peak_bytes=max((time.peak_bytes for time in times if time.peak_bytes is not None), default=None),
    )


def disagreements(rows: Sequence[Row]) -> list[str]:
    """Where systems did not do the same work at the same number of trials; empty where all did."""
    found = []
    for points in _by_point(rows).values():
        done = [row for row in points if row.problem is None]
        for row in done[1:]:
            first, common = done[0], min(row.ran, done[0].ran)
            names = f"{row.trials} trials: {row.system} and {first.system}"
            if row.trainable_parameters[:common] != first.trainable_parameters[:common]:
                found.append(f"{names} train other numbers of parameters")
            if row.tokens != first.tokens:
                found.append(f"{names} train on {row.tokens:,} and {first.tokens:,} tokens")
            losses = zip(row.base_losses, first.base_losses, strict=False)
            if any(a and b and abs(a - b) > SAME_LOSS * b for a, b in losses):
                found.append(
                    f"{names}: the base's losses are {row.base_losses[0]} and {first.base_losses[0]}"
                )
    return list(dict.fromkeys(found))


COLUMNS = (
    "tokens",
    "trials",
    "system",
    "makespan",
    "x fused",
    "per trial",
    "tokens/s of the sweep",
    "tokens/s in training",
    "start-up",
    "training",
    "evaluation and the rest",
    "final loss, mean",
    "peak memory",
)


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each system at each number of trials, medians over the turns."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    notes = []
    for (tokens_per_row, trials), own in _by_point(rows).items():
        fused = makespan(own, FUSED)
        for system in (name for name in SYSTEMS if any(row.system == name for row in own)):
            cells = ["" if tokens_per_row is None else str(tokens_per_row), str(trials), system]
            done = [row for row in own if row.system == system and row.makespan_s]
            if not done:
                problem = next(row.problem for row in own if row.system == system)
                lines.append("| " + " | ".join([*cells, str(problem), *[""] * (len(COLUMNS) - 4)]) + " |")
                continue
            lines.append("| " + " | ".join([*cells, *_cells(done, fused)]) + " |")
            ran = min(row.ran for row in done)
            if ran < trials:
                notes.append(
                    f"{system}, {trials} trials: {ran} ran, the others are counted as those after the first"
                )
            if system == FUSED and (groups := max(row.groups for row in done)) > 1:
                notes.append(f"{system}, {trials} trials: in {groups} groups")
    return "\n".join(lines + [f"\n{note}" for note in notes])


def makespan(rows: Sequence[Row], system: str) -> float | None:
    """The median over turns; None where nothing was measured."""
    seconds = [row.makespan_s for row in rows if row.system == system and row.makespan_s]
    return median(seconds) if seconds else None


def _cells(done: Sequence[Row], fused: float | None) -> list[str]:
    seconds = sorted(row.makespan_s or 0.0 for row in done)
    middle = median(seconds)
    spread = f" ({seconds[0]:,.1f}-{seconds[-1]:,.1f})" if len(seconds) > 1 else ""
    typical = done[[row.makespan_s for row in done].index(min(seconds, key=lambda s: abs(s - middle)))]
    losses = [loss for loss in typical.val_losses if loss is not None]
    shares = [
        f"{part:,.1f} s ({part / (typical.makespan_s or 1):.0%})"
        for part in (typical.startup_s, typical.training_s, typical.evaluation_s)
    ]
    return [
        f"{middle:,.1f} s{spread}",
        "" if fused is None else f"{middle / fused:.2f}",
        f"{middle / typical.trials:,.1f} s",
        f"{typical.tokens / middle:,.0f}",
        f"{typical.tokens / typical.training_s:,.0f}" if typical.training_s else "",
        *shares,
        f"{mean(losses):.3f}" if losses else "",
        "" if typical.peak_bytes is None else f"{typical.peak_bytes / 2**30:.2f} GiB",
    ]


def _by_point(rows: Sequence[Row]) -> dict[tuple[int | None, int], list[Row]]:
    points: dict[tuple[int | None, int], list[Row]] = {}
    for row in rows:
        points.setdefault((row.tokens_per_row, row.trials), []).append(row)
    return dict(sorted(points.items(), key=lambda item: (item[0][0] or 0, item[0][1])))


def write(rows: Sequence[Row], about: dict[str, Any], folder: Path) -> None:
    """results.json, table.md and makespan.png; after every sweep, so that a stopped benchmark leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {"about": about, "rows": [asdict(row) for row in rows]}
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    named = "\n".join(f"- {key}: {value}" for key, value in about.items())
    (folder / "table.md").write_text(f"{named}\n\n{table(rows)}\n", encoding="utf-8")
    draw(rows, folder / "makespan.png")


def read_rows(folder: Path) -> list[Row]:
    """What `write` wrote; none where there is nothing yet."""
    file = folder / "results.json"
    if not file.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    for row in rows:
        row.update({name: tuple(value) for name, value in row.items() if isinstance(value, list)})
    return [Row(**row) for row in rows]


def draw(rows: Sequence[Row], picture: Path) -> None:
    """Makespan over the number of trials, a panel for each length of examples, with the ratio to fused."""
    points = {key: own for key, own in _by_point(rows).items() if any(row.makespan_s for row in own)}
    if not points:
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    lengths = list(dict.fromkeys(length for length, _ in points))
    figure, axes = plt.subplots(
        1, len(lengths), figsize=(6.5 * len(lengths), 4.8), layout="constrained", squeeze=False
    )
    for axis, length in zip(axes[0], lengths, strict=True):
        own = {trials: at for (at_length, trials), at in points.items() if at_length == length}
        for system in SYSTEMS:
            line = [(trials, seconds) for trials, at in own.items() if (seconds := makespan(at, system))]
            if not line:
                continue
            axis.plot(*zip(*line, strict=True), "o-" if system == FUSED else "s--", label=system)
            for trials, seconds in line:
                fused = makespan(own[trials], FUSED)
                if fused and system != FUSED:
                    axis.annotate(
                        f"{seconds / fused:.1f}x",
                        (trials, seconds),
                        (0, 6 if seconds >= fused else -15),
                        textcoords="offset points",
                        ha="center",
                    )
        axis.set(
            xscale="log", yscale="log", xlabel="trials", ylabel="seconds from the command to the last summary"
        )
        axis.set_title("" if length is None else f"{length} tokens")
        axis.set_xticks(list(own), [str(trials) for trials in own])
        axis.xaxis.minorticks_off()
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
        axis.margins(y=0.08)
        axis.legend(title="2x: twice as long as fused")
    figure.savefig(picture, dpi=150)
    plt.close(figure)
