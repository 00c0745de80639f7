from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from summarizer.evaluation.metrics import RowLosses, Scores, bootstrap
from summarizer.evaluation.record import LOSS, VARIANTS, Difference, Interval
from summarizer.evaluation.statistics import (
    compare,
    holm,
    same_rows,
    share_interval,
    sign_flip_test,
    sign_test,
    smallest_p,
    too_few_rows,
)

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
    monkeypatch.setattr("summarizer.evaluation.statistics.BLOCK_ELEMENTS", 9 * 16)
    assert sign_flip_test(ROWS, seed=1, rounds=1000) == pytest.approx(whole, abs=0.08)


def test_what_cannot_be_tested() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        sign_flip_test(np.ones((0, 2)), seed=0)
    with pytest.raises(ValueError, match="finite"):
        sign_flip_test(np.array([[np.nan]]), seed=0)


def scored(column: NDArray[np.float64]) -> Scores:
    """Scores whose every ROUGE variant has these values, but for rouge2, which has their doubles."""
    per_row = dict.fromkeys(VARIANTS, column) | {"rouge2": 2 * column}
    return Scores(bootstrap(per_row, 5, 0), per_row=per_row)


def test_compare_pairs_row_by_row() -> None:
    one, other = scored(ROWS[:, 0]), scored(ROWS[:, 2])
    found = {d.metric: d for d in compare({("one", "other"): (one, other)}, samples=200, seed=4)}
    assert list(found) == list(VARIANTS)
    rouge1 = found["rouge1"]
    assert (rouge1.first, rouge1.second, rouge1.rows) == ("one", "other", 9)
    assert rouge1.mean.value == pytest.approx((ROWS[:, 0] - ROWS[:, 2]).mean())
    expected = bootstrap({"": ROWS[:, 0] - ROWS[:, 2]}, 200, 4)[""]
    assert (rouge1.mean.low, rouge1.mean.high) == pytest.approx((expected.low, expected.high))
    assert rouge1.better_rows == int((ROWS[:, 0] > ROWS[:, 2]).sum())
    swapped = {d.metric: d for d in compare({("other", "one"): (other, one)}, samples=200, seed=4)}
    assert swapped["rouge2"].p_value == found["rouge2"].p_value
    assert swapped["rouge2"].mean.value == pytest.approx(-found["rouge2"].mean.value)
    assert [d.metric for d in compare({("a", "b"): (one, other)}, samples=5, seed=4, metrics=["rouge2"])] == [
        "rouge2"
    ]


def test_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="one and other were not scored on the same rows"):
        compare({("one", "other"): (scored(np.ones(9)), scored(np.ones(8)))}, samples=5, seed=0)


def test_rows_line_up_by_their_ids() -> None:
    order = [4, 2, 0, 1, 3, 8, 7, 6, 5]
    turned = [IDS[index] for index in order]
    assert [turned[place] for place in same_rows(IDS, turned)] == IDS
    assert same_rows(IDS, IDS).tolist() == list(range(9))
    assert same_rows(["a", "a", "b"], ["a", "a", "b"]).tolist() == [0, 1, 2]
    for ids, message in (
        ([*IDS[:-1], "other"], r"not in both: \['other', 'row8'\]"),
        (IDS[:-1], "9 and 8 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            same_rows(IDS, ids)
    with pytest.raises(ValueError, match="twice"):
        same_rows(["a", "a", "b"], ["b", "a", "a"])


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


def test_p_is_adjusted_over_all_pairs_together() -> None:
    pairs = {
        ("best", name): (scored(ROWS[:, k]), scored(np.zeros(9))) for k, name in enumerate(("one", "two"))
    }
    found = compare(pairs, samples=5, seed=0)
    assert [(d.second, d.metric) for d in found] == [(n, v) for n in ("one", "two") for v in VARIANTS]
    assert [d.p_holm for d in found] == holm([d.p_value for d in found])


def test_the_smallest_p_is_that_of_all_signs_alike() -> None:
    for rows in (1, 4, 8):
        totals = [sum(1 if flips >> k & 1 else -1 for k in range(rows)) for flips in range(2**rows)]
        assert smallest_p(rows) == sum(abs(total) == rows for total in totals) / len(totals)


COUNT = 12
TOKENS = np.full(COUNT, 10)


def system(loss: NDArray[np.float64] | None, **rouge: NDArray[np.float64]) -> Scores:
    """loss: nats per token of each row; ROUGE of a variant that is not given is 20."""
    per_row = {variant: rouge.get(variant, np.full(COUNT, 20.0)) for variant in VARIANTS}
    losses = None if loss is None else RowLosses(loss * TOKENS, TOKENS)
    return Scores(bootstrap(per_row, 20, 0), per_row=per_row, row_losses=losses)


def by_metric(before: Scores, after: Scores) -> dict[str, Difference]:
    found = compare({("after", "before"): (after, before)}, samples=200, seed=0)
    return {change.metric: change for change in found}


def test_verdicts_of_known_differences() -> None:
    to_and_fro = np.array([1.0, -1.0] * (COUNT // 2))
    before = system(np.full(COUNT, 4.0))
    after = system(
        np.full(COUNT, 3.5),
        rouge1=np.full(COUNT, 22.0),
        rouge2=np.full(COUNT, 17.0),
        rougeL=20.0 + to_and_fro,
    )
    found = by_metric(before, after)
    assert list(found) == ["loss", *VARIANTS]
    verdicts = {metric: change.verdict for metric, change in found.items()}
    assert verdicts == {
        "loss": "better",  # lower
        "rouge1": "better",
        "rouge2": "worse",
        "rougeL": "not significant",
        "rougeLsum": "not significant",
    }
    assert [round(found[m].mean.value, 6) for m in verdicts] == [-0.5, 2.0, -3.0, 0.0, 0.0]
    assert [(found[m].better_rows, found[m].equal_rows) for m in verdicts] == [
        (12, 0),
        (12, 0),
        (0, 0),
        (6, 0),
        (0, 12),
    ]


def test_p_is_adjusted_over_all_changes() -> None:
    found = by_metric(system(np.full(COUNT, 4.0)), system(np.full(COUNT, 3.5)))
    loss = found["loss"]
    assert loss.p_holm == pytest.approx(5 * loss.p_value)  # the smallest of five


@pytest.mark.parametrize("loss", [None, np.full(COUNT, np.inf)])
def test_a_loss_that_is_none_or_not_finite_has_no_change(loss: NDArray[np.float64] | None) -> None:
    assert list(by_metric(system(loss), system(np.full(COUNT, 3.5)))) == list(VARIANTS)


@pytest.mark.parametrize(
    ("metric", "value", "p", "verdict"),
    [
        ("rouge1", 1.0, 0.049, "better"),
        ("rouge1", 1.0, 0.05, "not significant"),
        ("rouge1", -1.0, 0.01, "worse"),
        (LOSS, -1.0, 0.01, "better"),
        (LOSS, 1.0, 0.01, "worse"),
        (LOSS, 1.0, 0.9, "not significant"),
    ],
)
def test_the_adjusted_p_value_decides(metric: str, value: float, p: float, verdict: str) -> None:
    mean = Interval(value, value - 0.5, value + 0.5)
    found = Difference("after", "before", metric, mean, p / 5, p, 16)
    assert found.verdict == verdict
    assert found.significant is (verdict != "not significant")
    assert too_few_rows([found] * 5) is False
    assert too_few_rows([Difference("a", "b", metric, mean, p, p, 6)] * 2) is True


def loss_difference(first: RowLosses, second: RowLosses, samples: int) -> Difference:
    pair = (Scores({}, row_losses=first), Scores({}, row_losses=second))
    (found,) = compare({("first", "second"): pair}, samples=samples, seed=0, metrics=[LOSS])
    return found


def test_a_constant_gain_per_token_has_no_width() -> None:
    tokens = np.array([3, 9, 5, 11, 2, 7])
    before = RowLosses(tokens * np.array([4.0, 5.0, 3.0, 4.5, 6.0, 4.0]), tokens)
    after = RowLosses(before.nats - 0.5 * tokens, tokens)
    found = loss_difference(after, before, samples=50)
    assert (found.mean.value, found.mean.low, found.mean.high) == pytest.approx((-0.5, -0.5, -0.5))
    # Only the swap of no row and that of all are as far from 0: 2 of 64.
    assert found.p_value == pytest.approx(2 / 64, abs=0.006)
    assert found.rows == 6


def test_its_value_is_the_difference_of_the_means() -> None:
    generator = np.random.default_rng(1)
    tokens = generator.integers(5, 90, size=40)
    first, second = (RowLosses(tokens * generator.uniform(3, 5, size=40), tokens) for _ in range(2))
    found = loss_difference(first, second, samples=200)
    assert found.mean.value == pytest.approx(first.mean - second.mean)
    assert found.mean.low < found.mean.value < found.mean.high


def test_losses_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        loss_difference(RowLosses.of([(2.0, 1)]), RowLosses.of([(2.0, 2)]), samples=10)


def test_the_sign_test_and_its_interval_are_the_exact_ones() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    for wins, losses in ((0, 0), (1, 0), (3, 3), (5, 1), (8, 1), (0, 7), (14, 6), (60, 40), (700, 560)):
        assert sign_test(wins, losses) == sign_test(losses, wins)
        if not (decided := wins + losses):
            assert sign_test(wins, losses) == 1.0
            continue
        found = scipy_stats.binomtest(wins, decided)
        assert sign_test(wins, losses) == pytest.approx(found.pvalue, rel=1e-9)
        share, expected = share_interval(wins, decided), found.proportion_ci(method="exact")
        assert share.value == pytest.approx(100 * wins / decided)
        assert (share.low, share.high) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-5)
        assert (share.low <= 50 <= share.high) == (sign_test(wins, losses) >= 0.05), "they never contradict"
    with pytest.raises(ValueError, match="decided"):
        share_interval(0, 0)


@pytest.mark.parametrize(("wins", "losses"), [(4, 2), (5, 0), (3, 4)])
def test_the_sign_test_counts_all_outcomes(wins: int, losses: int) -> None:
    decided = wins + losses
    outcomes = [sum(signs) for signs in product((0, 1), repeat=decided)]
    as_far = [count for count in outcomes if abs(2 * count - decided) >= abs(wins - losses)]
    assert sign_test(wins, losses) == pytest.approx(len(as_far) / 2**decided)
