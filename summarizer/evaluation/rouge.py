"""ROUGE per row by Google's rouge-score, and bootstrap intervals of its mean."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summarizer.evaluation.parallel import map_rows
from summarizer.evaluation.sentences import split_sentences

VARIANTS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its 95 % interval, in the unit of the rows: percent for ROUGE."""

    value: float
    low: float
    high: float


def score_pairs(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    show: bool = True,
    processes: int | None = None,
    split: Callable[[str], list[str]] = split_sentences,
) -> dict[str, NDArray[np.float64]]:
    """F1 of each row in percent, shape (rows,), for each of VARIANTS; `show` draws a progress bar.

    Porter stemmer on; both sides go in with one sentence per line, which is what ROUGE-Lsum is defined over.
    An empty prediction scores 0. rouge-score compares words of a-z and 0-9 only, so text in another script
    scores 0 too.
    processes: None is all cores where there are rows enough (`map_rows`); the scores are the same.
    split: cuts a text into sentences; a function of a module.
    Raises ValueError if the two differ in length.
    Source: Lin 2004 (ROUGE), as the rouge-score package implements it.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    work = partial(_score_rows, split=split)
    scores = map_rows(work, predictions, references, label="ROUGE", show=show, processes=processes)
    by_variant = np.asarray(scores, dtype=np.float64).reshape(len(predictions), len(VARIANTS)).T
    return dict(zip(VARIANTS, np.ascontiguousarray(by_variant), strict=True))


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


def _score_rows(
    predictions: Sequence[str], references: Sequence[str], *, split: Callable[[str], list[str]]
) -> list[list[float]]:
    scorer = _scorer()
    rows = []
    for prediction, reference in zip(predictions, references, strict=True):
        scored = scorer.score("\n".join(split(reference)), "\n".join(split(prediction)))
        rows.append([100 * scored[variant].fmeasure for variant in VARIANTS])
    return rows


def _scorer() -> Any:
    from absl import logging as absl_logging
    from rouge_score.rouge_scorer import RougeScorer

    # absl's handler closes the stream it was made with when logging is configured anew, unless that is Python's
    # own: a standard error that was redirected at the time would be lost to everyone.
    absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)
    return RougeScorer(list(VARIANTS), use_stemmer=True)
