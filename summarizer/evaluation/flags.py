"""The flags of `python -m summarizer.evaluate`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from summarizer.config.flags import Flags, FolderPath, Metavar
from summarizer.config.schema import Count, PositiveCount
from summarizer.config.shared_flags import BatchFlags, GenerationFlags


class RowFlags(Flags):
    """Which rows are scored."""

    HEADING: ClassVar[str] = "rows"

    data: tuple[Annotated[str, Metavar("FILE")], ...] = ()
    """rows of one's own (JSONL, JSON, CSV, Parquet, a glob of them); may be repeated"""
    column: str | None = None
    """of the article in FILE; default: the run's own"""
    summary_column: str | None = None
    """of the reference summary, likewise"""
    id_column: str | None = None
    """of the id; default: the run's own, or row numbers"""
    rows: PositiveCount | Literal["all"] | None = None
    """score on so many rows, or on all; default: the run's own limit"""
    max_bad_rows: Count | None = None
    """leave out up to so many unusable rows; default: the run's own"""


class ScoreFlags(Flags):
    """What is scored and by what."""

    HEADING: ClassVar[str] = "scores"

    base: bool = True
    """leave the base model out"""
    loss: bool = True
    """leave the loss out"""
    bertscore: FolderPath | None = None
    """BERTScore by the encoder in this folder"""
    bertscore_layer: Count | None = None
    """of the encoder, required with it: 17 of roberta-large"""


class EvaluateFlags(GenerationFlags, BatchFlags, ScoreFlags, RowFlags):
    """Score trained runs on a split: ROUGE with intervals, loss, text statistics, significance."""

    runs: CliPositionalArg[list[FolderPath]] = Field(validation_alias="RUN")
    """a run's folder; several share one base model"""
    split: Literal["test", "validation", "train"] | None = None
    """which rows of the run's data; default: the run's own evaluation.split"""
    protocol: Literal["own", "mlperf"] = "own"
    """own: as the run was trained; mlperf: MLPerf Inference's task for GPT-J"""
    output: FolderPath | None = None
    """for summaries and scores, or to go on in; default: see below"""
