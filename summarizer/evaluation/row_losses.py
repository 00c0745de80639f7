"""A system's loss on each row, so that two systems' losses can be compared row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from summarizer.evaluation.rouge import CONFIDENCE, Interval
from summarizer.evaluation.significance import Difference, sign_flip_test


@dataclass(frozen=True, eq=False)
class RowLosses:
    """What a system pays for the reference summaries."""

    nats: NDArray[np.float64]
    """Shape (rows,): summed over each row's summary tokens."""
    tokens: NDArray[np.int64]
    """Shape (rows,): how many each has, at least one."""

    @classmethod
    def of(cls, rows: Sequence[tuple[float, int]]) -> RowLosses:
        """From nats and tokens of each row."""
        return cls(np.array([nats for nats, _ in rows]), np.array([tokens for _, tokens in rows]))

    @property
    def mean(self) -> float:
        """Nats per summary token over all rows: a long summary counts for more than a short one."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def per_row(self) -> NDArray[np.float64]:
        """Nats per summary token of each row."""
        return self.nats / self.tokens


def loss_interval(losses: RowLosses, samples: int, seed: int) -> Interval:
    """The mean and its 95 % percentile bootstrap interval over the rows. Not finite where a row's loss is not.

    Source: percentile interval of a ratio of sums, Efron and Tibshirani 1993, section 13.3.
    """
    return _interval(losses.nats, losses.tokens, samples, seed)


def loss_difference(first: RowLosses, second: RowLosses, *, samples: int, seed: int) -> Difference:
    """First minus second, in nats per summary token of all rows, paired by row.

    The rows of both stand in the same order. p is `sign_flip_test`'s, of the rows' differences in nats.
    Raises ValueError where their tokens differ or a loss is not finite.
    """
    if not np.array_equal(first.tokens, second.tokens):
        raise ValueError("two losses are compared on the same rows")
    differences = first.nats - second.nats
    (p_value,) = sign_flip_test(differences[:, None], seed)
    interval = _interval(differences, first.tokens, samples, seed)
    return Difference(interval, float(p_value), None, len(differences))


def _interval(nats: NDArray[np.float64], tokens: NDArray[np.int64], samples: int, seed: int) -> Interval:
    """Of sum(nats) / sum(tokens); the rows that each sample draws are those that `bootstrap` draws."""
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    for sample in range(samples):
        drawn = generator.integers(len(nats), size=len(nats))
        means[sample] = nats[drawn].sum() / tokens[drawn].sum()
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(nats.sum() / tokens.sum()), float(low), float(high))
