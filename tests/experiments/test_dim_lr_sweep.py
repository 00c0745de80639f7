"""The replay of successive halving over a grid that was trained in full."""

from __future__ import annotations

import sys

from small_runs import REPOSITORY

sys.path.append(str(REPOSITORY / "experiments" / "dim_lr_sweep"))
from halving import Replay, replayed


def test_a_replay_trains_the_survivors_alone() -> None:
    """Six runs of three evaluations: two pass the first rung, and the second rung is their end."""
    values = {str(run): [float(run), 1.0, 0.5 + run / 10] for run in range(6)}
    assert replayed(values, 3, 1, lower_is_better=True) == Replay(4 * 1 + 2 * 3, "0")
    assert replayed(values, 3, 1, lower_is_better=False) == Replay(4 * 1 + 2 * 3, "5")


def test_a_late_bloomer_is_lost() -> None:
    values = {"fast": [1.0, 0.9, 0.9], "slow": [2.0, 1.0, 0.1], "poor": [3.0, 3.0, 3.0]}
    assert replayed(values, 3, 1, lower_is_better=True) == Replay(1 + 1 + 3, "fast")
    assert replayed(values, 3, 2, lower_is_better=True) == Replay(2 + 2 + 3, "fast")


def test_fewer_runs_than_the_factor_still_have_a_winner() -> None:
    assert replayed({"a": [2.0, 1.0], "b": [1.0, 2.0]}, 4, 1, lower_is_better=True) == Replay(3, "b")
