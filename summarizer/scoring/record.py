"""`scores.json`: every system's scores on the same rows, and what they were made with, in one typed object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from summarizer.atomic import write_text
from summarizer.errors import ConfigError
from summarizer.evaluation.text_statistics import Statistic
from summarizer.runs.record import IntervalLike, Measured, Part, RougeScores, Score, broken
from summarizer.tracking.environment import GitState

Protocol = Literal["own", "mlperf"]


class RowsPart(Part):
    """Which rows the scores are over."""

    data: str
    split: str
    count: int
    ids_sha256: str
    texts_sha256: str
    """Of ids, articles and references."""

    def __str__(self) -> str:
        return f"{self.data}, {self.split}, {self.count:,} row{'' if self.count == 1 else 's'}"


class StatisticPart(Part):
    """Null where no row has it."""

    mean: Score | None
    unit: str
    rows: int

    @classmethod
    def of(cls, statistic: Statistic) -> StatisticPart:
        interval = statistic.interval
        return cls(
            mean=None if interval is None else score_of(interval), unit=statistic.unit, rows=statistic.rows
        )


class MlperfFigure(Part):
    name: str
    value: float
    reference: float
    passes: dict[str, bool]
    """By level."""


class MlperfPart(Part):
    """MLPerf's own computation of its figures, and its verdict."""

    figures: list[MlperfFigure]
    passed: dict[str, bool | None]
    """By level; null where there is no verdict."""
    refusal: str | None
    sentences_by: str
    gen_num: int


class SystemPart(Part):
    """One system. Null is what it does not have or was not asked for."""

    name: str
    folder: str | None
    """The run's."""
    predictions: str | None
    """Path of its summaries."""
    settings: dict[str, Any] | None
    cut_articles: int | None
    """Which did not fit into the prompt as a whole."""
    loss: Measured
    """Nats per summary token."""
    rouge: RougeScores
    bertscore: dict[str, Score] | None
    statistics: dict[str, StatisticPart]
    mlperf: MlperfPart | None


class DifferencePart(Part):
    """First minus second, in percent."""

    first: str
    second: str
    metric: str
    mean: Score
    p_value: float
    p_holm: float
    """Adjusted over all the differences of this evaluation."""
    rows: int


class Evaluation(Part):
    protocol: Protocol
    rows: RowsPart
    systems: list[SystemPart]
    references: dict[str, StatisticPart]
    """The text statistics of the reference summaries."""
    differences: list[DifferencePart]
    bertscore_by: str | None
    """Encoder and layer."""
    bootstrap_samples: int
    notes: list[str]
    """What a reader has to know before comparing these scores with others."""
    versions: dict[str, str | None]
    git: GitState | None


def score_of(interval: IntervalLike) -> Score:
    return Score(value=interval.value, low=interval.low, high=interval.high)


def statistics_of(found: Mapping[str, Statistic]) -> dict[str, StatisticPart]:
    return {name: StatisticPart.of(statistic) for name, statistic in found.items()}


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Replace `path` in one step. Raises OSError, leaving the old file as it was."""
    write_text(path, evaluation.model_dump_json(indent=2) + "\n")


def read_evaluation(path: Path) -> Evaluation:
    """Raises ConfigError where there is none, naming each field that is wrong."""
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError.single(str(path), f"no scores to read here ({error.strerror})") from error
    except ValidationError as error:
        raise broken(path, error) from error
