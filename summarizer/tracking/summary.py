"""`summary.json`: what a run was and what came of it, in one typed object."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import field_validator

from summarizer.evaluation.metrics import Rouge
from summarizer.records import GitState, Measured, Part, read_part, write_part

SUMMARY = "summary.json"

Status = Literal["completed", "stopped", "failed"]
EndedBy = Literal["epochs", "max_steps", "early_stopping", "successive_halving", "signal", "error"]


class TrainLoss(Part):
    """Mean loss per summary token at the first and the last logged step."""

    first: Measured
    last: Measured


class BaseScores(Part):
    """The untrained base on the same rows."""

    val_loss: Measured
    rouge: Rouge | None


class Summary(Part):
    """Null is what a run that failed or stopped had not found out yet, or what its config did not ask for."""

    status: Status
    ended_by: EndedBy | None = None
    error: str | None = None
    overrides: list[str]
    seed: int
    steps: int | None = None
    best_step: int | None = None
    """The step whose adapter was saved."""
    epochs: Measured = None
    tokens: int | None = None
    wall_s: Measured = None
    tokens_per_s: Measured = None
    mfu: Measured = None
    """Model FLOP utilization over the training steps, as `tracking.utilization` derives it; 1 is all of it."""
    startup_s: dict[str, float] | None = None
    """Seconds from the command to the end of the first step, by part."""
    peak_memory_bytes: int | None = None
    trainable_parameters: int | None = None
    train_loss: TrainLoss | None = None
    val_loss: Measured = None
    rouge: Rouge | None = None
    baseline: Rouge | None = None
    """Lead-3 on the same rows."""
    base: BaseScores | None = None
    split: str | None = None
    rows: int | None = None
    model: str
    quantization: str
    adapter: str | None = None
    """Path of the saved adapter below the run folder."""
    versions: dict[str, str | None]
    git: GitState | None = None
    data_fingerprint: str | None = None

    @field_validator("adapter")
    @classmethod
    def _below_the_run_folder(cls, path: str | None) -> str | None:
        if path is not None and (PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts):
            raise ValueError(f"{path} is not a path below the run folder")
        return path


def write_summary(folder: Path, summary: Summary) -> None:
    """Replace the run folder's summary.json in one step. Raises OSError, leaving the old file as it was."""
    write_part(folder / SUMMARY, summary)


def read_summary(folder: Path) -> Summary:
    """The summary of a run folder. Raises ConfigError if there is none, naming each field that is wrong."""
    return read_part(folder / SUMMARY, Summary, "summary")


def is_finished(folder: Path) -> bool:
    """Whether nothing is left to do for a run: it completed, or lost in successive halving.

    Raises ConfigError where its summary is broken.
    """
    if not (folder / SUMMARY).is_file():
        return False
    summary = read_summary(folder)
    return summary.status == "completed" or summary.ended_by == "successive_halving"
