"""Losses row by row, their intervals and differences, against closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from summarizer.evaluation.row_losses import RowLosses, loss_difference, loss_interval


def test_the_mean_is_over_tokens_not_rows() -> None:
    losses = RowLosses.of([(2.0, 1), (6.0, 6)])
    assert losses.mean == pytest.approx(8 / 7)
    assert losses.per_row.tolist() == [2.0, 1.0]


def test_the_interval_of_two_rows_is_that_of_all_resamples() -> None:
    """Two rows have four resamples, equally likely: the outer quantiles are the outer ones of these."""
    losses = RowLosses.of([(2.0, 1), (6.0, 6)])
    resamples = [
        sum(losses.nats[list(drawn)]) / sum(losses.tokens[list(drawn)])
        for drawn in itertools.product((0, 1), repeat=2)
    ]
    found = loss_interval(losses, 2000, 0)
    assert (found.value, found.low, found.high) == pytest.approx((8 / 7, min(resamples), max(resamples)))
    assert found == loss_interval(losses, 2000, 0)


def test_a_constant_gain_per_token_has_no_width() -> None:
    tokens = np.array([3, 9, 5, 11, 2, 7])
    before = RowLosses(tokens * np.array([4.0, 5.0, 3.0, 4.5, 6.0, 4.0]), tokens)
    after = RowLosses(before.nats - 0.5 * tokens, tokens)
    found = loss_difference(after, before, samples=50, seed=0)
    assert (found.mean.value, found.mean.low, found.mean.high) == pytest.approx((-0.5, -0.5, -0.5))
    # Only the swap of no row and that of all are as far from 0: 2 of 64.
    assert found.p_value == pytest.approx(2 / 64, abs=0.006)
    assert found.rows == 6


def test_its_value_is_the_difference_of_the_means() -> None:
    generator = np.random.default_rng(1)
    tokens = generator.integers(5, 90, size=40)
    first, second = (RowLosses(tokens * generator.uniform(3, 5, size=40), tokens) for _ in range(2))
    found = loss_difference(first, second, samples=200, seed=0)
    assert found.mean.value == pytest.approx(first.mean - second.mean)
    assert found.mean.low < found.mean.value < found.mean.high


def test_losses_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        loss_difference(RowLosses.of([(2.0, 1)]), RowLosses.of([(2.0, 2)]), samples=10, seed=0)
