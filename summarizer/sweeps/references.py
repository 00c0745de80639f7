"""What the runs of a sweep are measured by: the untrained base and Lead-3, as the runs' own folders tell it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from summarizer.evaluation.metrics import VARIANTS, Rouge
from summarizer.records import Measured, Part
from summarizer.sweeps.result import Below, Best, Metric, RunResult
from summarizer.tracking.metrics import METRICS, read_metrics
from summarizer.tracking.summary import SUMMARY, read_summary


class Reference(Part):
    """Scores that no run of the sweep trained for. Null is what no run has found out."""

    system: Literal["base alone", "Lead-3"]
    runs: tuple[Below, ...]
    """Folders of the runs that it stands beside: runs of other data or another base have others."""
    best: Best | None = None
    """Of the sweep's metric at step 0, on the rows that the runs' best values are of."""
    val_loss: Measured = None
    rouge: Rouge | None = None
    split: str | None = None
    rows: int | None = None


def collect_references(sweep: Path, runs: Sequence[RunResult], metric: Metric) -> tuple[Reference, ...]:
    """Each once, the bases first. Raises ConfigError where a file of a run's folder is broken."""
    found = [one for run in runs for one in _references(sweep / run.folder, run, metric)]
    found.sort(key=lambda one: (one.system != "base alone", one.rouge is None, one.best is None))
    merged: list[Reference] = []
    for one in found:
        place = next((i for i, other in enumerate(merged) if _agree(one, other)), None)
        if place is None:
            merged.append(one)
        else:
            merged[place] = merged[place].model_copy(update={"runs": merged[place].runs + one.runs})
    return tuple(merged)


def _references(folder: Path, run: RunResult, metric: Metric) -> list[Reference]:
    untrained: Best | None = None
    if (folder / METRICS).is_file():
        rows = read_metrics(folder / METRICS)
        values = [row[metric.name] for row in rows if row["step"] == 0 and row.get(metric.name) is not None]
        untrained = Best(value=values[-1], step=0) if values else None
    summary = read_summary(folder) if (folder / SUMMARY).is_file() else None
    base, lead = (summary.base, summary.baseline) if summary else (None, None)
    of_run: dict[str, Any] = {"runs": (run.folder,), "split": run.split, "rows": run.rows}
    found = []
    if untrained or base:
        scores: dict[str, Any] = {"val_loss": base.val_loss, "rouge": base.rouge} if base else {}
        found.append(Reference(system="base alone", best=untrained, **scores, **of_run))
    if lead:
        found.append(Reference(system="Lead-3", rouge=lead, **of_run))
    return found


def _agree(one: Reference, other: Reference) -> bool:
    """Whether they say the same, as far as both say anything: groups measure it anew, to the last digits shown."""
    pairs = zip(_figures(one), _figures(other), strict=True)
    return one.system == other.system and all(a is None or b is None or a == b for a, b in pairs)


def _figures(one: Reference) -> list[str | int | float | None]:
    scores = [one.rouge[name].value if one.rouge else None for name in VARIANTS]
    losses = [one.best.value if one.best else None, one.val_loss]
    return [
        *(one.split, one.rows),
        *(None if value is None else round(value, 2) for value in scores),
        *(None if value is None else round(value, 3) for value in losses),
    ]
