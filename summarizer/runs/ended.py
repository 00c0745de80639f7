"""How one run of a group ended, as those who started it hear of it."""

from __future__ import annotations

from dataclasses import dataclass

from summarizer.runs.job import Job
from summarizer.tracking.metrics import read_metrics


@dataclass(frozen=True)
class Ended:
    folder: str
    """The run folder."""
    value: float | None
    """The best value of `trainer.best_metric`, what a sweeper optimises; None without an evaluation."""
    error: Exception | None = None
    """What ended it before its time."""


def best_value(job: Job) -> float | None:
    """Of `trainer.best_metric`, as the run's metrics.jsonl has it; None where there is none."""
    path = job.path / "metrics.jsonl"
    if not path.is_file():
        return None
    name = job.config["trainer"]["best_metric"]
    values = [row[name] for row in read_metrics(path) if row["step"] and row.get(name) is not None]
    if not values:
        return None
    return float(min(values) if name == "val/loss" else max(values))
