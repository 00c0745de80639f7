"""Summaries scored row by row, and runs paired over the same rows: which lead is more than luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from summarizer.evaluation.metrics import VARIANTS, Scores, score_pairs
from summarizer.evaluation.pipeline import best_against
from summarizer.evaluation.predictions import Prediction
from summarizer.evaluation.statistics import Difference, same_rows

BOOTSTRAP_SAMPLES, SEED = 1000, 0
"""As conf/evaluation/default.yaml has them for a run's own intervals."""


@dataclass(frozen=True)
class RowScores:
    """ROUGE of pairs of a prediction and a reference, each distinct pair scored once."""

    of: Mapping[tuple[str, str], Mapping[str, float]]
    """Percent, by variant."""

    def per_row(self, predictions: Sequence[Prediction]) -> dict[str, NDArray[np.float64]]:
        """By variant, shape (rows,)."""
        found = [self.of[row.prediction, row.reference] for row in predictions]
        return {variant: np.array([row[variant] for row in found]) for variant in VARIANTS}


def score_rows(parts: Sequence[Sequence[Prediction]]) -> RowScores:
    """All of them together, so that one bar counts down and every core has work."""
    pairs = list(dict.fromkeys((row.prediction, row.reference) for part in parts for row in part))
    scores = score_pairs([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    columns = {variant: values.tolist() for variant, values in scores.items()}
    return RowScores(
        {pair: {variant: columns[variant][i] for variant in VARIANTS} for i, pair in enumerate(pairs)}
    )


def against(
    best: str, runs: Mapping[str, Sequence[Prediction]], scores: RowScores
) -> dict[str, dict[str, Difference]]:
    """The best run minus each other one, by ROUGE variant, adjusted by Holm over all of them.

    runs: predictions of all rows, by run, the best's among them.
    Rows whose ids occur twice are paired as they stand, where both runs have them in one order.
    """
    ids = _distinct([row.id for row in runs[best]])
    of_run: dict[str, Scores] = {}
    for name, predictions in runs.items():
        order = same_rows(ids, _distinct([row.id for row in predictions]))
        per_row = {variant: values[order] for variant, values in scores.per_row(predictions).items()}
        of_run[name] = Scores({}, per_row=per_row)
    others = {name: found for name, found in of_run.items() if name != best}
    by_run: dict[str, dict[str, Difference]] = {}
    for difference in best_against(best, others, of_run[best], samples=BOOTSTRAP_SAMPLES, seed=SEED):
        by_run.setdefault(difference.second, {})[difference.metric] = difference
    return by_run


def _distinct(ids: Sequence[str]) -> list[str]:
    """The ids, or numbers where one occurs twice; row sets then hold runs of one order alone."""
    return list(ids) if len(set(ids)) == len(ids) else [str(i) for i in range(len(ids))]
