"""`scores.json`: every system's scores on the same rows, and what they were made with, in one typed object."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from summarizer.evaluation.metrics import Interval, Rouge
from summarizer.evaluation.mlperf import Verdict
from summarizer.evaluation.statistics import Difference
from summarizer.evaluation.text_statistics import Statistic
from summarizer.json_files import GitState, Measured, Part, read_part, write_part

Protocol = Literal["own", "mlperf"]


class RowsPart(Part):
    """Which rows the scores are over."""

    data: str
    """The data set with its version, such as "cnn_dailymail 3.0.0"."""
    split: str
    count: int
    ids_sha256: str
    """Of the rows' ids in their order."""
    texts_sha256: str
    """Of ids, articles and references."""

    def __str__(self) -> str:
        return f"{self.data}, {self.split}, {self.count:,} row{'' if self.count == 1 else 's'}"


class SystemPart(Part):
    """One system. Null is what it does not have or was not asked for."""

    name: str
    folder: str | None
    """The run's folder."""
    predictions: str | None
    """The path of its summaries."""
    settings: dict[str, Any] | None
    cut_articles: int | None
    """How many articles did not fit into the prompt as a whole."""
    loss: Measured
    """Cross-entropy in nats per summary token."""
    rouge: Rouge
    bertscore: dict[str, Interval] | None
    statistics: dict[str, Statistic]
    mlperf: Verdict | None
    """MLPerf's own computation of its figures, and its verdict."""


class Evaluation(Part):
    """Everything that `python -m summarizer.evaluate` found out in one call."""

    protocol: Protocol
    rows: RowsPart
    systems: list[SystemPart]
    references: dict[str, Statistic]
    """The text statistics of the reference summaries."""
    differences: list[Difference]
    """The best run minus each other system, in percent."""
    bertscore_by: str | None
    """Encoder and layer."""
    bootstrap_samples: int
    notes: list[str]
    """What a reader has to know before comparing these scores with others."""
    versions: dict[str, str | None]
    git: GitState | None


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Replace `path` in one step. Raises OSError, leaving the old file as it was."""
    write_part(path, evaluation)


def read_evaluation(path: Path) -> Evaluation:
    """Raises ConfigError where there is none, naming each field that is wrong."""
    return read_part(path, Evaluation, "scores")
