"""How one run of a group ended, as those who started it hear of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from summarizer.config.paths import shown
from summarizer.errors import ConfigError, NonFiniteLossError, RunsFailed, disk_refusal
from summarizer.runs.record import RunRecord
from summarizer.tracking.metrics import METRICS, read_metrics

EXPECTED = (ConfigError, NonFiniteLossError, RunsFailed)
"""Failures whose message says all; others are logged with where they happened."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    folder: str
    """The run folder."""
    value: float | None
    """The best value of `trainer.best_metric`, what a sweeper optimizes; None without an evaluation."""
    error: Exception | None = None
    """What ended it before its time."""
    said: bool = False
    """Whether the log has the error already."""


def say_failed(error: Exception, folders: Sequence[str]) -> None:
    """Log why runs failed, in the log of one alone where it is one."""
    refused = disk_refusal(error)
    unexpected = None if refused or isinstance(error, EXPECTED) else error
    one = {"run": folders[0]} if len(folders) == 1 else {}
    names = ", ".join(shown(Path(folder)) for folder in folders)
    text = "%s %s failed: %s"
    log.error(text, "run" if one else "runs", names, refused or error, exc_info=unexpected, extra=one)


def best_value(job: RunRecord) -> float | None:
    """Of `trainer.best_metric`, as the run's metrics.jsonl has it; None where there is none."""
    path = job.path / METRICS
    if not path.is_file():
        return None
    name = job.config["trainer"]["best_metric"]
    values = [row[name] for row in read_metrics(path) if row["step"] and row.get(name) is not None]
    if not values:
        return None
    return float(min(values) if name == "val/loss" else max(values))
