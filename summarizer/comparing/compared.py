"""What is known of each run that is compared, wherever it was read from. The table and the page draw only this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from summarizer.evaluation.metrics import Scores
from summarizer.evaluation.statistics import Difference
from summarizer.sweeps.swept import Value


@dataclass(frozen=True)
class RowSet:
    """The rows that a run was scored on. Scores of different row sets are never in one column."""

    split: str
    rows: int
    digest: str
    """SHA-256 over the rows' ids and references, or of the data where the rows themselves are not at hand."""


@dataclass(frozen=True)
class Point:
    """A metric's value after an optimizer step."""

    step: int
    value: float


@dataclass(frozen=True)
class ScoredText:
    """One summary and its own ROUGE in percent, by variant."""

    text: str
    rouge: Mapping[str, float]


@dataclass(frozen=True)
class ComparedRun:
    name: str
    """Short, and different for each run of the comparison."""
    source: str
    """The folder that it was read from, as the user sees it."""
    status: str
    """completed, stopped, failed or running."""
    why: str | None
    """What ended it, or its error, in one line; None where it just completed."""
    command: str
    """That trains it again, to be copied into a shell; empty where its record does not say."""
    config: Mapping[str, Value]
    """Every key of its config, dotted."""
    row_set: RowSet | None
    """None where it was never scored."""
    scores: Scores | None
    base: Scores | None
    """The untrained base on the same rows."""
    lead3: Scores | None
    history: Mapping[str, tuple[Point, ...]]
    """By metric, such as train/loss, val/loss, val/rougeLsum; steps ascend."""
    predictions: Mapping[str, ScoredText]
    """By row id; the first rows alone where there are many."""
    base_predictions: Mapping[str, ScoredText]
    wall_s: float | None
    tokens_per_s: float | None
    peak_memory_bytes: int | None
    trainable_parameters: int | None
    steps: int | None
    best_step: int | None


@dataclass(frozen=True)
class Row:
    """An article that several runs summarized."""

    id: str
    reference: str
    article: str | None
    """Its beginning, where it is at hand."""


@dataclass(frozen=True)
class Comparison:
    runs: tuple[ComparedRun, ...]
    """By row set, the best first within each; those without scores last."""
    swept: tuple[str, ...]
    """Keys of the config whose values differ between the runs, those that were overridden first."""
    row_sets: tuple[RowSet, ...]
    """One group of columns each; the one with most runs first."""
    best: Mapping[RowSet, str]
    """Name of the best run on each row set, by `ranked_by`."""
    ranked_by: str
    """val/loss or a ROUGE variant, such as rougeLsum."""
    against_best: Mapping[str, Mapping[str, Difference]]
    """Name of a run to ROUGE variant to (the best run minus this run), paired, with Holm's adjustment. A run is
    missing where it is the best itself or has no predictions at hand."""
    rows: Mapping[RowSet, tuple[Row, ...]]
    """Those that the page shows."""
    problems: Mapping[str, str]
    """What could not be read, wholly or in part, by its path: the reason, in one line."""
    notes: tuple[str, ...]
    """What a reader has to know before comparing, a sentence each."""
