"""The sentences at a run's end claim what was shown, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from synthetic_sweep import make_run, plan

from summarizer.evaluation.record import VARIANTS, Difference, Interval
from summarizer.reports.sentences import about_the_gain, edge_notes, listed
from summarizer.runs.settings import sweep_axes
from summarizer.sweeps.record import collect


def change(metric: str, verdict: str, rows: int = 16) -> Difference:
    sign = -1 if (metric == "loss") == (verdict == "better") else 1
    mean = Interval(sign * 1.0, *sorted((sign * 0.5, sign * 1.5)))
    return Difference(
        "adapter", "other", metric, mean, 0.001, 0.9 if verdict == "not significant" else 0.01, rows, 9, 0
    )


def gains(rows: int = 16, **verdicts: str) -> list[Difference]:
    of = {"loss": "not significant", **dict.fromkeys(VARIANTS, "not significant"), **verdicts}
    found = [change(metric, verdict, rows) for metric, verdict in of.items()]
    assert {one.metric: one.verdict for one in found} == of
    return found


def lead(verdict: str) -> list[Difference]:
    return [change(variant, verdict) for variant in VARIANTS]


def test_all_shown() -> None:
    everything = dict.fromkeys(("loss", *VARIANTS), "better")
    assert about_the_gain(gains(**everything), lead("worse")) == [
        "The adapter predicts the reference summaries better than the base model does.",
        "The summaries it writes are nearer to the references by all four ROUGE scores.",
        "Lead-3, the first three sentences of each article, is ahead of it by all four ROUGE scores.",
    ]


def test_a_loss_that_fell_and_rouge_that_did_not_change() -> None:
    assert about_the_gain(gains(loss="better", rouge2="worse"), lead("not significant")) == [
        "The adapter predicts the reference summaries better than the base model does.",
        "The summaries it writes are further from the references by rouge2.",
        "No change of rouge1, rougeL or rougeLsum is significant: what is seen may be luck in the articles.",
        "Lead-3, the first three sentences of each article, does not differ significantly from it by any of "
        "the four ROUGE scores.",
    ]


def test_nothing_shown_claims_nothing() -> None:
    lines = about_the_gain(gains(), lead("better"))
    assert lines[0].startswith("No change of loss or any of the four ROUGE scores is significant")
    assert lines[1:] == [
        "Lead-3, the first three sentences of each article, is behind it by all four ROUGE scores."
    ]


def test_a_higher_loss_is_worse() -> None:
    assert about_the_gain(gains(loss="worse"), [])[0] == (
        "The adapter predicts the reference summaries worse than the base model does."
    )


@pytest.mark.parametrize(("rows", "said"), [(4, True), (7, True), (8, False), (16, False)])
def test_too_few_articles(rows: int, said: bool) -> None:
    """All signs alike have a two-sided p of 2 / 2**rows, and Holm takes the smallest of five times five."""
    assert (5 * 2 / 2**rows >= 0.05) is said
    lines = about_the_gain(gains(rows), [])
    assert any("too few for a significant change" in line for line in lines) is said


def test_without_the_base_no_gain_is_told() -> None:
    first, *_ = about_the_gain([], lead("worse"))
    assert first == "The base model was not scored (evaluation.base=false), so that no gain can be told."


def test_without_a_finite_loss() -> None:
    lines = about_the_gain(gains()[1:], [])
    assert lines[0] == "The loss is not a finite number, so that nothing is said of its change."


def test_lists() -> None:
    assert listed(["loss"]) == "loss"
    assert listed(["loss", "rouge1"]) == "loss and rouge1"
    assert listed(["loss", *VARIANTS]) == "loss and all four ROUGE scores"
    assert listed(["loss", "rouge1", "rougeL"], none=True) == "loss, rouge1 or rougeL"


def notes(
    sweep: Path, runs: Sequence[tuple[tuple[str, ...], float]], failed: Sequence[int] = ()
) -> list[str]:
    plan(sweep, [overrides for overrides, _ in runs])
    for number, (overrides, end) in enumerate(runs):
        status = "failed" if number in failed else "completed"
        make_run(sweep / str(number), overrides, end=end, status=status)
    record = collect(sweep)
    return edge_notes(record, sweep_axes(record.runs))


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        (1e-4, ["The best optimizer.lr, 1e-4, is the lowest that was tried; optimizer.lr=3e-5 comes next."]),
        (3e-4, []),
        (1e-3, ["The best optimizer.lr, 1e-3, is the highest that was tried; optimizer.lr=3e-3 comes next."]),
    ],
)
def test_the_best_rate_at_the_edge_of_what_was_tried(
    best: float, expected: list[str], tmp_path: Path
) -> None:
    rates = {"1e-4": 1e-4, "3e-4": 3e-4, "1e-3": 1e-3}
    ends = [((f"optimizer.lr={text}",), 3 + abs(rate - best)) for text, rate in rates.items()]
    assert notes(tmp_path, ends) == expected
    two = [ends[0], ends[2]]
    assert notes(tmp_path / "two", two) == []


def test_an_edge_is_one_of_runs_that_are_otherwise_alike(tmp_path: Path) -> None:
    """A higher rate that was tried with another dim says nothing of this one, nor does one that failed."""
    best = [
        (("adapter.dim=2", f"optimizer.lr={rate}"), end)
        for rate, end in (("1e-4", 5), ("3e-4", 4), ("1e-3", 3))
    ]
    others = [(("adapter.dim=8", "optimizer.lr=1e-2"), 6.0), (("adapter.dim=2", "optimizer.lr=1e-2"), 7.0)]
    expected = ["The best optimizer.lr, 1e-3, is the highest that was tried; optimizer.lr=3e-3 comes next."]
    assert notes(tmp_path / "dim", [*best, others[0]]) == expected
    assert notes(tmp_path / "failed", [*best, others[1]], failed=[3]) == expected
    assert notes(tmp_path / "completed", [*best, others[1]]) == []


def test_no_dim_below_one_comes_next(tmp_path: Path) -> None:
    runs = [((f"adapter.dim={dim}",), 3.0 + dim) for dim in (1, 2, 4)]
    assert notes(tmp_path, runs) == []


def test_each_kind_of_adapter_has_a_best_rate_of_its_own(tmp_path: Path) -> None:
    best = {"lora": 1e-3, "lora_plus": 1e-4, "rslora": 3e-4}
    runs = [
        (
            (f"adapter={kind}", f"adapter.dim={dim}", f"optimizer.lr={text}"),
            3 + abs(rate - best[kind]) + 1 / dim,
        )
        for kind in best
        for dim in (2, 8, 32)
        for text, rate in (("1e-4", 1e-4), ("3e-4", 3e-4), ("1e-3", 1e-3))
    ]
    found = notes(tmp_path, runs)
    rates = sorted(note for note in found if "optimizer.lr" in note)
    best_of = "The best optimizer.lr for adapter="
    assert rates == [
        f"{best_of}lora, 1e-3, is the highest that was tried; optimizer.lr=3e-3 comes next.",
        f"{best_of}lora_plus, 1e-4, is the lowest that was tried; optimizer.lr=3e-5 comes next.",
    ]
    dims = [note for note in found if "adapter.dim" in note]
    assert len(dims) == 3
    assert all("32, is the highest that was tried; adapter.dim=128 comes next." in note for note in dims)
