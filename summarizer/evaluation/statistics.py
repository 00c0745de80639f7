"""Whether one system scores better than another on the same rows, or was lucky in the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from summarizer.evaluation.metrics import RowShares, Scores, bootstrap, ratio_interval
from summarizer.evaluation.record import LOSS, SIGNIFICANCE_LEVEL, VARIANTS, Difference, Interval

ROUNDS = 10_000
"""Random sign flips: a p value of 0.05 is then known to about 0.004 (two standard errors)."""
BLOCK_ELEMENTS = 4_000_000
"""Random signs held at once: 32 MB."""


def compare(
    pairs: Mapping[tuple[str, str], tuple[Scores, Scores]],
    *,
    samples: int,
    seed: int,
    metrics: Sequence[str] = (LOSS, *VARIANTS),
    advance: Callable[[], None] = lambda: None,
) -> list[Difference]:
    """For each pair of systems the first minus the second by each metric, adjusted by Holm over all of them.

    pairs: by their names, scores over the same rows in the same order.
    samples: how many resamples the intervals take.  seed: of the resamples and of the sign flips.
    metrics: in the order of the answer. The loss has a part only where both systems have one that is finite.
    advance: called after each pair, to move a progress bar.
    Raises ValueError where two systems were not scored on the same rows.
    Source: paired bootstrap, Koehn 2004 (Statistical significance tests for machine translation evaluation),
    here for the percentile interval of the mean difference; the test is `sign_flip_test`.
    """
    found: list[Difference] = []
    for (first, second), (one, other) in pairs.items():
        by_metric = {**_loss(first, second, one, other, samples, seed)} if LOSS in metrics else {}
        if variants := [metric for metric in metrics if metric != LOSS]:
            by_metric |= _rouge(first, second, one, other, variants, samples, seed)
        found += [by_metric[metric] for metric in metrics if metric in by_metric]
        advance()
    adjusted = holm([difference.p_value for difference in found])
    return [replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True)]


def _rouge(
    first: str,
    second: str,
    one: Scores,
    other: Scores,
    variants: Sequence[str],
    samples: int,
    seed: int,
) -> dict[str, Difference]:
    if any(one.per_row[variant].shape != other.per_row[variant].shape for variant in variants):
        raise ValueError(f"{first} and {second} were not scored on the same rows")
    gains = {variant: one.per_row[variant] - other.per_row[variant] for variant in variants}
    intervals = bootstrap(gains, samples, seed)
    p_values = sign_flip_test(np.stack(list(gains.values()), axis=1), seed)
    return {
        variant: _difference(first, second, variant, intervals[variant], float(p), gains[variant])
        for variant, p in zip(gains, p_values, strict=True)
    }


def _loss(
    first: str, second: str, one: Scores, other: Scores, samples: int, seed: int
) -> dict[str, Difference]:
    """Nats per summary token of all rows; p is of the rows' differences in nats."""
    ours, theirs = one.row_losses, other.row_losses
    if (
        ours is None
        or theirs is None
        or not (np.isfinite(ours.nats).all() and np.isfinite(theirs.nats).all())
    ):
        return {}
    if not np.array_equal(ours.tokens, theirs.tokens):
        raise ValueError(f"{first} and {second}: two losses are compared on the same rows")
    nats = ours.nats - theirs.nats
    (p,) = sign_flip_test(nats[:, None], seed)
    mean = ratio_interval(nats, ours.tokens, samples, seed)
    return {LOSS: _difference(first, second, LOSS, mean, float(p), -nats)}


def compare_shares(
    pairs: Mapping[tuple[str, str], tuple[Mapping[str, RowShares], Mapping[str, RowShares]]],
    *,
    samples: int,
    seed: int,
) -> list[Difference]:
    """For each pair of systems the first's ratios minus the second's, adjusted by Holm over all of them.

    pairs: by their names, scores over the same rows in the same order. A score that only one of two has, or for
    which no row of both has anything to count, has no part.
    Raises ValueError where two systems were not scored on the same rows.
    """
    found = [
        _share_difference(first, second, metric, one[metric], other[metric], samples, seed)
        for (first, second), (one, other) in pairs.items()
        for metric in one
        if metric in other and _have_a_row_in_common(one[metric], other[metric])
    ]
    adjusted = holm([difference.p_value for difference in found])
    return [replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True)]


def _have_a_row_in_common(one: RowShares, other: RowShares) -> bool:
    """Raises ValueError where the two are not over the same rows."""
    if one.of.shape != other.of.shape:
        raise ValueError("two systems were not scored on the same rows")
    return bool((one.of * other.of).any())


def _share_difference(
    first: str, second: str, metric: str, one: RowShares, other: RowShares, samples: int, seed: int
) -> Difference:
    """The interval draws rows for both; the test swaps both systems' parts of a row, as `sign_flip_test` does."""
    columns = np.stack([one.parts, one.of, other.parts, other.of])
    rows = columns.shape[1]
    observed = float(_ratio_gap(columns.sum(axis=1)))
    generator = np.random.default_rng(seed)
    gaps = np.empty(samples)
    for sample in range(samples):
        gaps[sample] = _ratio_gap(columns[:, generator.integers(rows, size=rows)].sum(axis=1))
    low, high = np.nanquantile(gaps, [0.025, 0.975])
    generator = np.random.default_rng(seed)
    as_far, block = 0, max(BLOCK_ELEMENTS // rows, 1)
    halves = (columns[:2] - columns[2:]).T / 2
    middle = (columns[:2] + columns[2:]).sum(axis=1) / 2
    for start in range(0, ROUNDS, block):
        size = min(block, ROUNDS - start)
        signs = 2.0 * generator.integers(0, 2, size=(size, rows), dtype=np.int8) - 1.0
        swapped = signs @ halves
        gap = _ratio_gap(np.concatenate([middle + swapped, middle - swapped], axis=1).T)
        as_far += int((np.abs(gap) >= abs(observed) * (1 - 1e-12)).sum())
    p = (as_far + 1) / (ROUNDS + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        gains = one.parts / one.of - other.parts / other.of
    mean = Interval(observed, float(low), float(high))
    return _difference(first, second, metric, mean, p, gains[np.isfinite(gains)])


def _ratio_gap(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first ratio minus the second of four sums along the first axis; without anything to count NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        gap: NDArray[np.float64] = sums[0] / sums[1] - sums[2] / sums[3]
    return np.where(np.isfinite(gap), gap, np.nan)


def _difference(
    first: str, second: str, metric: str, mean: Interval, p: float, gains: NDArray[np.float64]
) -> Difference:
    better, equal = int((gains > 0).sum()), int((gains == 0).sum())
    return Difference(first, second, metric, mean, p, p, len(gains), better, equal)


def sign_flip_test(differences: NDArray[np.float64], seed: int, rounds: int = ROUNDS) -> NDArray[np.float64]:
    """Two-sided p value of each column, shape (metrics,), that its mean is 0, by paired approximate randomization.

    differences: first minus second, shape (rows, metrics). Were both systems equally good, each row's scores
    could be swapped, which turns its sign: p is the share of `rounds` random swaps whose mean is at least as far
    from 0, the one observed counted among them. So it is never 0 and at least 1 / (rounds + 1). All metrics see
    the same swaps.
    Raises ValueError without a row or a round, and for a score that is not a number.
    Source: Riezler and Maxwell 2005 (On some pitfalls in automatic evaluation and significance testing for MT),
    after Noreen 1989; the + 1: Phipson and Smyth 2010 (arXiv:1603.05766).
    """
    rows = len(differences)
    if rows < 1 or rounds < 1:
        raise ValueError(f"the test needs a row and a round, not {rows} rows and {rounds} rounds")
    if not np.isfinite(differences).all():
        raise ValueError("a score is not a finite number")
    observed = np.abs(differences.sum(axis=0))
    # Two sums of the same numbers in another order differ by rounding, and such a tie counts as one.
    bound = observed - 1e-12 * np.abs(differences).sum(axis=0)
    generator = np.random.default_rng(seed)
    as_far = np.zeros(differences.shape[1], dtype=np.int64)
    block = max(BLOCK_ELEMENTS // rows, 1)
    for start in range(0, rounds, block):
        size = min(block, rounds - start)
        signs = 2.0 * generator.integers(0, 2, size=(size, rows), dtype=np.int8) - 1.0
        as_far += (np.abs(signs @ differences) >= bound).sum(axis=0)
    p_values: NDArray[np.float64] = (as_far + 1) / (rounds + 1)
    return p_values


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order given: below 0.05 with at most 5 % risk of one false find among all.

    Raises ValueError for a p value outside 0 to 1.
    Source: Holm 1979 (A simple sequentially rejective multiple test procedure).
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p values are from 0 to 1: {list(p_values)}")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def expected_best(values: Sequence[float], *, lower_is_better: bool) -> list[float]:
    """The best value to be expected of 1, 2, ... as many trials as there are values, each value equally likely.

    Each trial draws any of the values, those that were drawn before among them. Of n values sorted so that the best
    comes last, the best of k draws is at most the i-th with probability (i / n)**k.
    Raises ValueError without a value.
    Source: the expected validation performance of Dodge et al. 2019 (Show Your Work, arXiv:1909.03004).
    """
    if not len(values):
        raise ValueError("without a value there is no best one")
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if lower_is_better:
        ordered = ordered[::-1]
    count = len(ordered)
    at_most = np.arange(count + 1) / count
    return [float(np.diff(at_most**budget) @ ordered) for budget in range(1, count + 1)]


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p value that either side wins as often, ties left out: exact, by the binomial distribution.

    Twice the smaller tail, at most 1; 1 without a decided pair.
    Source: the sign test, Dixon and Mood 1946 (The statistical sign test).
    """
    decided = wins + losses
    tail = sum(math.comb(decided, count) for count in range(max(wins, losses), decided + 1))
    return min(1.0, float(2 * tail / 2**decided))


def share_interval(wins: int, decided: int) -> Interval:
    """The share of wins among decided pairs in percent, with its exact 95 % interval.

    It holds 50 % exactly where `sign_test` is not significant, so that the two never contradict each other.
    Raises ValueError without a decided pair.
    Source: Clopper and Pearson 1934 (The use of confidence or fiducial limits), here by bisection.
    """
    if not 0 <= wins <= decided or decided < 1:
        raise ValueError(f"{wins} wins of {decided} decided pairs")
    half = SIGNIFICANCE_LEVEL / 2

    def bound(holds: Callable[[float], bool]) -> float:
        """The share up to which `holds`, to a billionth."""
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if holds(middle) else (low, middle)
        return low

    low = 0.0 if not wins else bound(lambda share: _at_least(wins, decided, share) < half)
    high = 1.0 if wins == decided else bound(lambda share: 1 - _at_least(wins + 1, decided, share) > half)
    return Interval(100 * wins / decided, 100 * low, 100 * high)


def _at_least(wins: int, decided: int, share: float) -> float:
    """How likely at least so many wins are, each pair being won with this chance, which is neither 0 nor 1."""
    logs = [
        math.lgamma(decided + 1)
        - math.lgamma(count + 1)
        - math.lgamma(decided - count + 1)
        + count * math.log(share)
        + (decided - count) * math.log1p(-share)
        for count in range(wins, decided + 1)
    ]
    return math.fsum(map(math.exp, logs))


def smallest_p(rows: int) -> float:
    """The least two-sided p value that so few rows can have: one system is better on each of them.

    Both signs of 2**rows.
    """
    return float(2.0 ** (1 - rows))


def too_few_rows(differences: Sequence[Difference]) -> bool:
    """Whether the rows are too few for any of these differences to be significant after Holm's adjustment."""
    return bool(differences) and smallest_p(differences[0].rows) * len(differences) >= SIGNIFICANCE_LEVEL


def same_rows(first: Sequence[str], second: Sequence[str]) -> NDArray[np.int64]:
    """Where in `second` each of the rows of `first` stands, by their ids.

    Raises ValueError where the two do not hold the same rows, or an id occurs twice in another order.
    """
    if list(first) == list(second):
        return np.arange(len(first))
    if sorted(first) != sorted(second):
        only = sorted(set(first) ^ set(second))[:3]
        raise ValueError(
            f"two systems are compared on the same rows; {len(first)} and {len(second)} rows, not in both: {only}"
        )
    places = {row_id: place for place, row_id in enumerate(second)}
    if len(places) != len(second):
        raise ValueError("row ids that occur twice cannot be matched in another order")
    return np.array([places[row_id] for row_id in first], dtype=np.int64)
