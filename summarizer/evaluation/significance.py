"""Whether one system scores better than another on the same rows, or was lucky in the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from summarizer.evaluation.rouge import Interval, bootstrap

ROUNDS = 10_000
"""Of sign flips: a p value of 0.05 is then known to about 0.004 (two standard errors)."""
BLOCK_ELEMENTS = 4_000_000
"""Random signs held at once: 32 MB."""


@dataclass(frozen=True)
class Difference:
    """How much better the first of two systems scores than the second, by one metric."""

    mean: Interval
    """First minus second, in the metric's unit, with the 95 % paired bootstrap interval."""
    p_value: float
    """Two-sided, of both being equally good; in (0, 1]."""
    p_adjusted: float | None
    """By Holm, over all the comparisons it stands among; None while it stands alone."""
    rows: int


def compare(
    first: Mapping[str, NDArray[np.float64]],
    second: Mapping[str, NDArray[np.float64]],
    *,
    first_ids: Sequence[str],
    second_ids: Sequence[str],
    samples: int,
    seed: int,
    rounds: int = ROUNDS,
) -> dict[str, Difference]:
    """First minus second by each metric, over the same rows, which may stand in another order.

    first, second: scores by metric, each of shape (rows,), such as `Scores.per_row`.
    samples: of the bootstrap; seed: of both the resamples and the signs.
    Raises ValueError if the two were not scored on the same rows or by the same metrics.
    Source: paired bootstrap, Koehn 2004 (Statistical significance tests for machine translation evaluation),
    here for the percentile interval of the mean difference; the test is `sign_flip_test`.
    """
    if first.keys() != second.keys():
        raise ValueError(f"different metrics: {sorted(first)} and {sorted(second)}")
    order = _same_rows(first_ids, second_ids)
    for system in (first, second):
        if any(values.shape != (len(order),) for values in system.values()):
            raise ValueError(f"a score for each of {len(order)} rows and of each metric is needed")
    differences = {metric: first[metric] - second[metric][order] for metric in first}
    intervals = bootstrap(differences, samples, seed)
    p_values = sign_flip_test(np.stack(list(differences.values()), axis=1), seed, rounds)
    return {
        metric: Difference(intervals[metric], float(p), None, len(order))
        for metric, p in zip(differences, p_values, strict=True)
    }


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


def p_text(p: float) -> str:
    """As a sentence has it after `p`: `= 0.034`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


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


def adjust(comparisons: Mapping[str, Mapping[str, Difference]]) -> dict[str, dict[str, Difference]]:
    """The same comparisons with `p_adjusted`, by Holm over all metrics of all of them together."""
    flat = [(name, metric) for name, metrics in comparisons.items() for metric in metrics]
    adjusted = holm([comparisons[name][metric].p_value for name, metric in flat])
    result: dict[str, dict[str, Difference]] = {name: {} for name in comparisons}
    for (name, metric), p in zip(flat, adjusted, strict=True):
        result[name][metric] = replace(comparisons[name][metric], p_adjusted=p)
    return result


def _same_rows(first: Sequence[str], second: Sequence[str]) -> NDArray[np.int64]:
    """Where in `second` each of the rows of `first` stands."""
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
