"""`summary.json`: what a run was and what came of it, in one typed object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator

from summarizer.atomic import write_text
from summarizer.errors import ConfigError, Issue

SUMMARY = "summary.json"

Status = Literal["completed", "stopped", "failed"]
EndedBy = Literal["epochs", "max_steps", "early_stopping", "successive_halving", "signal", "error"]


def _null_unless_finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Measured = Annotated[float | None, BeforeValidator(_null_unless_finite)]
"""A number, or null where it is not known or not finite: JSON has no NaN."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(Part):
    """A mean in percent and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


class IntervalLike(Protocol):
    """What `evaluation.rouge.Interval` offers."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class RougeScores(Part):
    rouge1: Score
    rouge2: Score
    rougeL: Score  # noqa: N815 - the metric's name
    rougeLsum: Score  # noqa: N815

    @classmethod
    def of(cls, intervals: Mapping[str, IntervalLike]) -> RougeScores:
        """From the intervals of all four variants. Raises ValueError if one is missing."""
        scores = {name: Score(value=i.value, low=i.low, high=i.high) for name, i in intervals.items()}
        return cls.model_validate(scores)


class TrainLoss(Part):
    """Mean loss per summary token at the first and the last logged step."""

    first: Measured
    last: Measured


class BaseScores(Part):
    """The untrained base on the same rows."""

    val_loss: Measured
    rouge: RougeScores | None


class GitState(Part):
    commit: str
    dirty: bool


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
    rouge: RougeScores | None = None
    baseline: RougeScores | None = None
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
    write_text(folder / SUMMARY, summary.model_dump_json(indent=2) + "\n")


def read_summary(folder: Path) -> Summary:
    """The summary of a run folder. Raises ConfigError if there is none, naming each field that is wrong."""
    path = folder / SUMMARY
    try:
        return Summary.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError.single(str(path), f"no summary to read here ({error.strerror})") from error
    except ValidationError as error:
        raise broken(path, error) from error


def broken(path: Path, error: ValidationError) -> ConfigError:
    """Each field of a file that is not as its class has it."""
    return ConfigError(
        Issue(f"{path}: {'.'.join(map(str, mistake['loc']))}".rstrip(": "), mistake["msg"])
        for mistake in error.errors()
    )


def is_finished(folder: Path) -> bool:
    """Whether nothing is left to do for a run: it completed, or lost in successive halving.

    Raises ConfigError where its summary is broken.
    """
    if not (folder / SUMMARY).is_file():
        return False
    summary = read_summary(folder)
    return summary.status == "completed" or summary.ended_by == "successive_halving"
