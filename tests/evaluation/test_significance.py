from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from summarizer.evaluation.rouge import bootstrap
from summarizer.evaluation.significance import adjust, compare, holm, sign_flip_test

GENERATOR = np.random.default_rng(5)
ROWS = GENERATOR.normal(0.5, 1.0, size=(9, 3))
IDS = [f"row{index}" for index in range(9)]


def exact(differences: np.ndarray) -> float:
    """Every way to turn signs."""
    sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=len(differences))]
    return float(np.mean([s >= abs(differences.sum()) - 1e-9 for s in sums]))


def test_the_p_value_is_the_exact_one_on_few_rows() -> None:
    rounds = 40_000
    found = sign_flip_test(ROWS, seed=1, rounds=rounds)
    expected = [exact(column) for column in ROWS.T]
    assert len({round(p, 3) for p in expected}) == 3
    # four standard errors of a share of so many rounds
    assert found == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(rounds))


def test_the_p_value_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed to compare with")
    differences = GENERATOR.normal(0.12, 1.0, size=200)
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(0)
    ).pvalue
    ours = float(sign_flip_test(differences[:, None], seed=0)[0])
    assert 0.01 < theirs < 0.5
    assert ours == pytest.approx(theirs, abs=0.02)


def test_the_p_value_is_uniform_where_nothing_differs() -> None:
    p_values = sign_flip_test(np.random.default_rng(8).normal(size=(60, 400)), seed=3, rounds=500)
    for bound in (0.05, 0.25, 0.5):
        share = float((p_values <= bound).mean())
        # four standard errors of a share of 400, and the metrics share their swaps
        assert share == pytest.approx(bound, abs=4 * np.sqrt(bound * (1 - bound) / 400))


def test_the_observed_counts_as_one_and_ties_count() -> None:
    assert sign_flip_test(np.full((60, 1), 1.0), seed=0, rounds=99) == pytest.approx([0.01])
    assert sign_flip_test(np.zeros((5, 1)), seed=0, rounds=99) == pytest.approx([1])
    # Ten scores of 100 / 7, one of them negative: as far from 0 as with one or none turned. Some of those sums
    # round to less than the one observed, which would make it 0.0195.
    sevenths = np.where(np.eye(10, dtype=bool), -100 / 7, 100 / 7)
    found = sign_flip_test(sevenths, seed=1, rounds=200_000)
    assert found == pytest.approx([2 * (1 + 10) / 1024] * 10, abs=0.0012)


def test_blocks_do_not_change_the_p_value_but_for_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sign_flip_test(ROWS, seed=1, rounds=1000)
    monkeypatch.setattr("summarizer.evaluation.significance.BLOCK_ELEMENTS", 9 * 16)
    assert sign_flip_test(ROWS, seed=1, rounds=1000) == pytest.approx(whole, abs=0.08)


def test_what_cannot_be_tested() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        sign_flip_test(np.ones((0, 2)), seed=0)
    with pytest.raises(ValueError, match="finite"):
        sign_flip_test(np.array([[np.nan]]), seed=0)


def test_compare_lines_rows_up_by_their_ids() -> None:
    first = {"rouge1": ROWS[:, 0], "rouge2": ROWS[:, 1]}
    second = {"rouge1": ROWS[:, 2], "rouge2": ROWS[:, 2] * 2}
    options = {"samples": 200, "seed": 4, "rounds": 200}
    found = compare(first, second, first_ids=IDS, second_ids=IDS, **options)
    assert found["rouge1"].mean.value == pytest.approx((ROWS[:, 0] - ROWS[:, 2]).mean())
    expected = bootstrap({"": ROWS[:, 0] - ROWS[:, 2]}, 200, 4)[""]
    assert (found["rouge1"].mean.low, found["rouge1"].mean.high) == pytest.approx(
        (expected.low, expected.high)
    )
    assert found["rouge1"].rows == 9
    assert found["rouge1"].p_adjusted is None
    order = [4, 2, 0, 1, 3, 8, 7, 6, 5]
    turned = {metric: values[order] for metric, values in second.items()}
    ids = [IDS[index] for index in order]
    assert compare(first, turned, first_ids=IDS, second_ids=ids, **options) == found
    swapped = compare(second, first, first_ids=IDS, second_ids=IDS, **options)
    assert swapped["rouge2"].p_value == found["rouge2"].p_value
    assert swapped["rouge2"].mean.value == pytest.approx(-found["rouge2"].mean.value)


@pytest.mark.parametrize(
    ("second_ids", "metric", "message"),
    [
        ([*IDS[:-1], "other"], "rouge1", "not in both: \\['other', 'row8'\\]"),
        (IDS[:-1], "rouge1", "9 and 8 rows"),
        (IDS, "rouge2", "different metrics"),
    ],
)
def test_other_rows_or_metrics_are_refused(second_ids: list[str], metric: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(
            {"rouge1": np.ones(9)},
            {metric: np.ones(len(second_ids))},
            first_ids=IDS,
            second_ids=second_ids,
            samples=5,
            seed=0,
        )


def test_ids_that_occur_twice_match_in_their_own_order_only() -> None:
    scores = {"rouge1": np.arange(3.0)}
    options = {"samples": 5, "seed": 0, "rounds": 5}
    ids = ["a", "a", "b"]
    assert compare(scores, scores, first_ids=ids, second_ids=ids, **options)["rouge1"].p_value == 1
    with pytest.raises(ValueError, match="twice"):
        compare(scores, scores, first_ids=ids, second_ids=["b", "a", "a"], **options)


def test_holm() -> None:
    # by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04 held up by the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []
    with pytest.raises(ValueError, match="0 to 1"):
        holm([1.2])


def test_holm_rejects_what_the_step_down_procedure_rejects() -> None:
    generator = np.random.default_rng(6)
    rejections = set()
    for _ in range(500):
        p_values = (generator.random(6) ** 3).tolist()
        rejected: set[int] = set()
        for rank, index in enumerate(sorted(range(6), key=p_values.__getitem__)):
            if p_values[index] > 0.05 / (6 - rank):
                break
            rejected.add(index)
        assert {i for i, p in enumerate(holm(p_values)) if p <= 0.05} == rejected
        rejections.add(len(rejected))
    assert len(rejections) > 3


def test_adjust_takes_all_comparisons_together() -> None:
    options = {"first_ids": IDS, "second_ids": IDS, "samples": 5, "seed": 0, "rounds": 99}
    zero = {"rouge1": np.zeros(9), "rouge2": np.zeros(9)}
    comparisons = {
        name: compare({"rouge1": ROWS[:, k], "rouge2": ROWS[:, k] + 1}, zero, **options)
        for k, name in enumerate(("one", "two"))
    }
    adjusted = adjust(comparisons)
    flat = [d for metrics in adjusted.values() for d in metrics.values()]
    assert [d.p_adjusted for d in flat] == holm([d.p_value for d in flat])
    assert [d.mean for d in flat] == [d.mean for metrics in comparisons.values() for d in metrics.values()]
