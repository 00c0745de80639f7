"""What counts as a change, and what as luck."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from summarizer.evaluation.changes import Change, changes, named
from summarizer.evaluation.rouge import VARIANTS, Interval, bootstrap
from summarizer.evaluation.row_losses import RowLosses
from summarizer.evaluation.scores import Scores
from summarizer.evaluation.significance import Difference

ROWS = 12
TOKENS = np.full(ROWS, 10)


def system(loss: NDArray[np.float64] | None, **rouge: NDArray[np.float64]) -> Scores:
    """loss: nats per token of each row; ROUGE of a variant that is not given is 20."""
    per_row = {variant: rouge.get(variant, np.full(ROWS, 20.0)) for variant in VARIANTS}
    losses = None if loss is None else RowLosses(loss * TOKENS, TOKENS)
    return Scores(losses, bootstrap(per_row, 20, 0), per_row, [""] * ROWS)


def by_metric(before: Scores, after: Scores) -> dict[str, Change]:
    return {change.metric: change for change in changes(before, after, samples=200, seed=0)}


def test_verdicts_of_known_differences() -> None:
    to_and_fro = np.array([1.0, -1.0] * (ROWS // 2))
    before = system(np.full(ROWS, 4.0))
    after = system(
        np.full(ROWS, 3.5),
        rouge1=np.full(ROWS, 22.0),
        rouge2=np.full(ROWS, 17.0),
        rougeL=20.0 + to_and_fro,
    )
    found = by_metric(before, after)
    assert list(found) == ["loss", *VARIANTS]
    verdicts = {metric: change.verdict for metric, change in found.items()}
    assert verdicts == {
        "loss": "better",  # lower
        "rouge1": "better",
        "rouge2": "worse",
        "rougeL": "not shown",
        "rougeLsum": "not shown",
    }
    assert [round(found[m].difference.mean.value, 6) for m in verdicts] == [-0.5, 2.0, -3.0, 0.0, 0.0]
    assert [(found[m].better_rows, found[m].equal_rows) for m in verdicts] == [
        (12, 0),
        (12, 0),
        (0, 0),
        (6, 0),
        (0, 12),
    ]
    assert named(list(found.values()), "better") == ["loss", "rouge1"]


def test_p_is_adjusted_over_all_changes() -> None:
    found = by_metric(system(np.full(ROWS, 4.0)), system(np.full(ROWS, 3.5)))
    loss = found["loss"].difference
    assert loss.p_adjusted == pytest.approx(5 * loss.p_value)  # the smallest of five


@pytest.mark.parametrize("loss", [None, np.full(ROWS, np.inf)])
def test_a_loss_that_is_none_or_not_finite_has_no_change(loss: NDArray[np.float64] | None) -> None:
    assert list(by_metric(system(loss), system(np.full(ROWS, 3.5)))) == list(VARIANTS)


@pytest.mark.parametrize(
    ("metric", "low", "high", "p", "verdict"),
    [
        ("rouge1", 0.1, 2.0, 0.049, "better"),
        ("rouge1", 0.1, 2.0, 0.05, "not shown"),
        ("rouge1", -0.1, 2.0, 0.01, "not shown"),
        ("rouge1", -2.0, -0.1, 0.01, "worse"),
        ("loss", -2.0, -0.1, 0.01, "better"),
        ("loss", 0.1, 2.0, 0.01, "worse"),
    ],
)
def test_both_the_interval_and_p_must_say_so(
    metric: str, low: float, high: float, p: float, verdict: str
) -> None:
    difference = Difference(Interval((low + high) / 2, low, high), p / 5, p, 16)
    assert Change(metric, difference, 10, 0).verdict == verdict
