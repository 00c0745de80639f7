from __future__ import annotations

import numpy as np
import pytest

from summarizer.evaluation.measured import MEANING, measured, rows_of, side_by_side
from summarizer.evaluation.rouge import VARIANTS, bootstrap

IDS = ["a", "b", "c"]
SCORES = {variant: np.arange(3.0) + index for index, variant in enumerate(VARIANTS)}


def test_columns_of_like_scores() -> None:
    assert set(MEANING) == set(VARIANTS)
    rows = rows_of("cnn_dailymail 3.0.0", "validation", IDS)
    assert str(rows) == "cnn_dailymail 3.0.0 validation, 3 rows"
    one = measured("adapter", rows, SCORES, samples=20, seed=1)
    two = measured("Lead-3", rows, {v: s + 1 for v, s in SCORES.items()}, samples=20, seed=1)
    columns = side_by_side([one, two])
    assert list(columns) == list(VARIANTS)
    assert list(columns["rougeLsum"]) == ["adapter", "Lead-3"]
    assert columns["rougeLsum"]["adapter"] == bootstrap(SCORES, 20, 1)["rougeLsum"]
    with pytest.raises(ValueError, match="one name"):
        side_by_side([one, one])


@pytest.mark.parametrize(
    ("data", "split", "ids"),
    [("xsum", "validation", IDS), ("cnn", "test", IDS), ("cnn", "validation", ["a", "b", "x"])],
)
def test_other_rows_never_share_a_column(data: str, split: str, ids: list[str]) -> None:
    one = measured("one", rows_of("cnn", "validation", IDS), SCORES, samples=5, seed=0)
    two = measured("two", rows_of(data, split, ids), SCORES, samples=5, seed=0)
    with pytest.raises(ValueError, match="do not stand in one column"):
        side_by_side([one, two])


def test_every_variant_and_every_row() -> None:
    rows = rows_of("cnn", "test", IDS)
    with pytest.raises(ValueError, match="not rouge1"):
        measured("x", rows, {"rouge1": np.ones(3)}, samples=5, seed=0)
    with pytest.raises(ValueError, match="was not scored on cnn test, 3 rows"):
        measured("x", rows, {variant: np.ones(2) for variant in VARIANTS}, samples=5, seed=0)
