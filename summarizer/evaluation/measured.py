"""Scores that say what they are of: which ROUGE, on which rows. Only like stands beside like."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from summarizer.evaluation.rouge import VARIANTS, Interval, bootstrap

MEANING: Mapping[str, str] = {
    "rouge1": "ROUGE-1: single words",
    "rouge2": "ROUGE-2: pairs of words",
    "rougeL": "ROUGE-L over the whole text as one line: MLPerf's ROUGE-L, not a paper's",
    "rougeLsum": "ROUGE-L sentence by sentence (summary level): what papers on CNN/DailyMail call ROUGE-L",
}
"""Each of `rouge.VARIANTS` for a person. F1 in percent, with the Porter stemmer."""


@dataclass(frozen=True)
class Rows:
    """Which rows a score is over."""

    data: str
    """The data set with its version, such as "cnn_dailymail 3.0.0"."""
    split: str
    count: int
    ids_sha256: str
    """Of the rows' ids in their order."""

    def __str__(self) -> str:
        return f"{self.data} {self.split}, {self.count:,} rows"


@dataclass(frozen=True)
class Measured:
    """One system's ROUGE on these rows, each variant by its name."""

    system: str
    rows: Rows
    rouge: Mapping[str, Interval]
    """By each of VARIANTS."""
    per_row: Mapping[str, NDArray[np.float64]]
    """In percent, shape (rows,), by each of VARIANTS."""


def rows_of(data: str, split: str, ids: Sequence[str]) -> Rows:
    listed = json.dumps(list(ids), ensure_ascii=False)
    return Rows(data, split, len(ids), hashlib.sha256(listed.encode()).hexdigest())


def measured(
    system: str, rows: Rows, per_row: Mapping[str, NDArray[np.float64]], *, samples: int, seed: int
) -> Measured:
    """With bootstrap intervals. Raises ValueError for other variants than VARIANTS, or for other rows."""
    if set(per_row) != set(VARIANTS):
        raise ValueError(f"ROUGE is {', '.join(VARIANTS)}, not {', '.join(per_row)}")
    if any(len(values) != rows.count for values in per_row.values()):
        raise ValueError(f"{system} was not scored on {rows}")
    return Measured(system, rows, bootstrap(per_row, samples, seed), per_row)


def side_by_side(systems: Sequence[Measured]) -> dict[str, dict[str, Interval]]:
    """For each variant a column: the score of each system.

    Raises ValueError where the systems were not scored on the same rows, or two have one name.
    """
    if others := {str(system.rows) for system in systems if system.rows != systems[0].rows}:
        raise ValueError(
            f"scores on different rows do not stand in one column: {systems[0].rows}; {'; '.join(sorted(others))}"
        )
    if len({system.system for system in systems}) != len(systems):
        raise ValueError(f"two systems have one name: {[system.system for system in systems]}")
    return {variant: {system.system: system.rouge[variant] for system in systems} for variant in VARIANTS}
