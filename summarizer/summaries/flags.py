"""The flags of `python -m summarizer.summarize`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg

from summarizer.config.flags import FilePath, Flags, FolderPath
from summarizer.config.shared_flags import BatchFlags, GenerationFlags


class TableFlags(Flags):
    """Which columns of a table are read."""

    HEADING: ClassVar[str] = "tables"

    column: str | None = None
    """of the article; default: the run's own"""
    id_column: str | None = None
    """of the id; default: the run's own, or row numbers"""


class WriterFlags(Flags):
    """What writes in place of the run's own adapter."""

    HEADING: ClassVar[str] = "model"

    base: bool = False
    """summarize by the base model, without an adapter"""
    adapter: FolderPath | None = None
    """a PEFT adapter in place of the run's own"""


class SummarizeFlags(GenerationFlags, BatchFlags, WriterFlags, TableFlags):
    """Summarize articles by a trained run."""

    run: CliPositionalArg[FolderPath] = Field(validation_alias="RUN")
    """the run's folder"""
    files: CliPositionalArg[tuple[str, ...]] = Field((), validation_alias="FILE")
    """what to summarize"""
    output: FilePath | None = None
    """write there (.jsonl), or go on writing there; default: print"""
