"""The sentences at a run's end claim what was shown, and no more."""

from __future__ import annotations

import pytest

from summarizer.evaluation.record import VARIANTS, Difference, Interval
from summarizer.reports.sentences import about_the_gain, listed


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
