"""ROUGE per row by Google's rouge-score, and bootstrap intervals of its mean."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summarizer import progress
from summarizer.evaluation.sentences import split_sentences

VARIANTS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean in percent and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def score_pairs(
    predictions: Sequence[str], references: Sequence[str], *, show: bool = True
) -> dict[str, NDArray[np.float64]]:
    """F1 of each row in percent, shape (rows,), for each of VARIANTS; `show` draws a progress bar.

    Porter stemmer on; both sides go in with one sentence per line, which is what ROUGE-Lsum is defined over.
    An empty prediction scores 0. rouge-score compares words of a-z and 0-9 only, so text in another script
    scores 0 too.
    Raises ValueError if the two differ in length.
    Source: Lin 2004 (ROUGE), as the rouge-score package implements it.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    scorer = _scorer()
    scores = np.zeros((len(VARIANTS), len(predictions)))
    with progress.bar("ROUGE", len(predictions), show=show) as bar:
        for row, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
            scored = scorer.score(_one_per_line(reference), _one_per_line(prediction))
            scores[:, row] = [100 * scored[variant].fmeasure for variant in VARIANTS]
            bar.advance()
    return dict(zip(VARIANTS, scores, strict=True))


def bootstrap(per_row: Mapping[str, NDArray[np.float64]], samples: int, seed: int) -> dict[str, Interval]:
    """Mean over the rows, and the 95 % percentile bootstrap interval from `samples` resamples, per variant.

    All variants see the same resamples. The same seed gives the same interval.
    Raises ValueError without a row, without a sample, or if the variants differ in rows.
    Source: percentile interval, Efron and Tibshirani 1993, section 13.3.
    """
    lengths = {len(scores) for scores in per_row.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"bootstrap needs equally many rows of each variant, at least one; got {sorted(lengths)}"
        )
    if samples < 1:
        raise ValueError(f"bootstrap needs at least one sample, not {samples}")
    rows = np.stack([np.asarray(scores, dtype=np.float64) for scores in per_row.values()])
    generator = np.random.default_rng(seed)
    means = np.empty((samples, len(rows)))
    for sample in range(samples):
        means[sample] = rows[:, generator.integers(rows.shape[1], size=rows.shape[1])].mean(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return {
        variant: Interval(float(rows[i].mean()), float(low[i]), float(high[i]))
        for i, variant in enumerate(per_row)
    }


def _scorer() -> Any:
    from absl import logging as absl_logging
    from rouge_score.rouge_scorer import RougeScorer

    # absl's handler closes the stream it was made with when logging is configured anew, unless that is Python's
    # own: a standard error that was redirected at the time would be lost to everyone.
    absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)
    return RougeScorer(list(VARIANTS), use_stemmer=True)


def _one_per_line(text: str) -> str:
    return "\n".join(split_sentences(text))
