"""The scores of a system on the rows of a split: ROUGE and cross-entropy, by row and as means with intervals."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summarizer.evaluation.faithfulness import Claim
from summarizer.evaluation.parallel import map_rows
from summarizer.evaluation.record import ROUGE_SCORE, VARIANTS, Interval, RougeTokenizer
from summarizer.evaluation.sentences import split_sentences
from summarizer.evaluation.words import build_tokenizer

CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class RowLosses:
    """What a system pays for the reference summaries, row by row."""

    nats: NDArray[np.float64]
    """The cross-entropy summed over each row's summary tokens, shape (rows,)."""
    tokens: NDArray[np.int64]
    """How many summary tokens each row has, at least one, shape (rows,)."""

    @classmethod
    def of(cls, rows: Sequence[tuple[float, int]]) -> RowLosses:
        """From each row's nats and tokens."""
        return cls(np.array([nats for nats, _ in rows]), np.array([tokens for _, tokens in rows]))

    @property
    def mean(self) -> float:
        """Nats per summary token over all rows: a long summary counts for more than a short one."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def per_row(self) -> NDArray[np.float64]:
        """Each row's nats per summary token."""
        return self.nats / self.tokens

    def interval(self, samples: int, seed: int) -> Interval:
        """The mean and its 95 % percentile bootstrap interval; not finite where a row's loss is not.

        Source: percentile interval of a ratio of sums, Efron and Tibshirani 1993, section 13.3.
        """
        return ratio_interval(self.nats, self.tokens, samples, seed)


@dataclass(frozen=True, eq=False)
class RowShares:
    """A score that is a ratio of two sums over the rows: of the names that an article has by all names."""

    parts: NDArray[np.float64]
    """Shape (rows,), in the score's unit times that of `of`."""
    of: NDArray[np.float64]
    """What they are shares of, shape (rows,); 0 where a row has nothing to count."""

    @classmethod
    def of_rows(cls, values: NDArray[np.float64]) -> RowShares:
        """A score that is the mean over the rows; a row whose value is not finite has none."""
        known = np.isfinite(values)
        return cls(np.where(known, values, 0.0), known.astype(np.float64))

    def interval(self, samples: int, seed: int) -> Interval | None:
        """The ratio with its 95 % percentile bootstrap interval; None where no row has anything to count."""
        if not self.of.any():
            return None
        return ratio_interval(self.parts, self.of, samples, seed)


@dataclass(frozen=True, eq=False)
class Scores:
    """One system's scores over the rows of a split: a trained adapter's, the base model's or Lead-3's."""

    rouge: Mapping[str, Interval]
    """Percent, by each of VARIANTS; empty where no summaries were written."""
    loss: float | None = None
    """Nats per summary token over all rows; None for what is no language model, or was not measured."""
    per_row: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Each row's ROUGE in percent, shape (rows,), by each of VARIANTS; empty where only the means are known."""
    row_losses: RowLosses | None = None
    """Each row's loss, where it was measured by row."""
    summaries: Sequence[str] = ()
    """What the system wrote, in the rows' order, where that is known."""
    faithfulness: Mapping[str, Interval] = field(default_factory=dict)
    """Scores of `record.FAITHFULNESS`, those that are known."""
    shares: Mapping[str, RowShares] = field(default_factory=dict)
    """The same by row, where that is known."""
    claims: Sequence[Sequence[Claim]] = ()
    """Names, numbers and quotes of each row's summary, where they were looked up in its article."""


def score(
    summaries: Sequence[str],
    references: Sequence[str],
    *,
    samples: int,
    seed: int,
    tokenizer: RougeTokenizer = ROUGE_SCORE,
    losses: RowLosses | None = None,
    loss: float | None = None,
) -> Scores:
    """ROUGE of these summaries with bootstrap intervals, beside the loss, given by row or as its mean alone."""
    per_row = score_pairs(summaries, references, tokenizer=tokenizer)
    return Scores(
        rouge=bootstrap(per_row, samples, seed),
        loss=loss if losses is None else losses.mean,
        per_row=per_row,
        row_losses=losses,
        summaries=summaries,
    )


def score_pairs(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    tokenizer: RougeTokenizer = ROUGE_SCORE,
    show: bool = True,
    processes: int | None = None,
    split: Callable[[str], list[str]] = split_sentences,
) -> dict[str, NDArray[np.float64]]:
    """F1 of each row in percent, shape (rows,), for each of VARIANTS; `show` draws a progress bar.

    Both sides go in with one sentence per line, which is what ROUGE-Lsum is defined over. An empty prediction
    scores 0, and so does any prediction for a reference without a token.
    tokenizer: one of `record.TOKENIZERS`. rouge-score's own sees a-z and 0-9 alone, with the Porter stemmer, so
        that text in another script scores 0 by it.
    processes: None is all cores where there are rows enough (`map_rows`); the scores are the same.
    split: cuts a text into sentences; a function of a module.
    Raises ValueError if the two differ in length.
    Source: Lin 2004 (ROUGE), as the rouge-score package implements it.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    work = partial(_score_rows, split=split, tokenizer=tokenizer)
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


def ratio_interval(
    nats: NDArray[np.float64], tokens: NDArray[np.int64] | NDArray[np.float64], samples: int, seed: int
) -> Interval:
    """Mean and 95 % interval of sum(nats) / sum(tokens); each sample draws the rows that `bootstrap` draws.

    A sample of rows without any token has no ratio and is left out.
    """
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    for sample in range(samples):
        drawn = generator.integers(len(nats), size=len(nats))
        of = tokens[drawn].sum()
        means[sample] = nats[drawn].sum() / of if of else np.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means[~np.isnan(means)] if not tokens.all() else means, [tail, 1 - tail])
    return Interval(float(nats.sum() / tokens.sum()), float(low), float(high))


def _score_rows(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    split: Callable[[str], list[str]],
    tokenizer: RougeTokenizer,
) -> list[list[float]]:
    scorer = _scorer(tokenizer)
    rows = []
    for prediction, reference in zip(predictions, references, strict=True):
        scored = scorer.score("\n".join(split(reference)), "\n".join(split(prediction)))
        rows.append([100 * scored[variant].fmeasure for variant in VARIANTS])
    return rows


def _scorer(tokenizer: RougeTokenizer) -> Any:
    from absl import logging as absl_logging
    from rouge_score.rouge_scorer import RougeScorer

    # absl's handler closes the stream it was made with when logging is configured anew, unless that is Python's
    # own: a standard error that was redirected at the time would be lost to everyone.
    absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)
    return RougeScorer(list(VARIANTS), use_stemmer=True, tokenizer=build_tokenizer(tokenizer))
