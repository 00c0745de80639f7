from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from summarizer.evaluation.metrics import RowLosses, bootstrap, score_pairs
from summarizer.evaluation.record import VARIANTS, Interval

pytestmark = pytest.mark.versions

PREDICTIONS = ["The cats were running. Dogs slept.", "nothing alike", "", "One sentence. Another one here."]
REFERENCES = [
    "A cat runs.\nThe dog sleeps .",
    "A whole other text",
    "Something .",
    "Another one here .\nOne sentence .",
]


def test_scores_are_rouge_scores_own() -> None:
    scores = score_pairs(PREDICTIONS, REFERENCES, show=False)
    from rouge_score.rouge_scorer import (
        RougeScorer,  # not above: absl would keep the capture's standard error
    )

    scorer = RougeScorer(list(VARIANTS), use_stemmer=True)
    by_hand = ["The cats were running.\nDogs slept.", "nothing alike", "", "One sentence.\nAnother one here."]
    assert set(scores) == set(VARIANTS)
    for row, (prediction, reference) in enumerate(zip(by_hand, REFERENCES, strict=True)):
        expected = scorer.score(reference, prediction)
        for variant in VARIANTS:
            assert scores[variant][row] == pytest.approx(100 * expected[variant].fmeasure)


def test_known_values() -> None:
    scores = score_pairs(
        ["a b c d", "Cats sleep. Dogs run.", "x", ""], ["a b", "Dogs run. Cats sleep.", "y", "z"]
    )
    # 2 of 4 words right, both found: F1 = 2/3; one of three bigrams right: F1 = 1/2
    assert scores["rouge1"] == pytest.approx([200 / 3, 100, 0, 0])
    assert scores["rouge2"][0] == pytest.approx(50)
    # in another order the longest common run is half, but each sentence is found whole
    assert scores["rougeL"][1] == pytest.approx(50)
    assert scores["rougeLsum"][1] == pytest.approx(100)


def test_the_stemmer_is_on() -> None:
    assert score_pairs(["running"], ["runs"], show=False)["rouge1"] == pytest.approx([100])


def test_unequal_lengths_and_no_rows() -> None:
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        score_pairs(["a"], ["a", "b"])
    assert all(scores.shape == (0,) for scores in score_pairs([], []).values())


def test_constant_rows_have_no_width() -> None:
    assert bootstrap({"rouge1": np.full(7, 12.5)}, samples=50, seed=0) == {
        "rouge1": Interval(12.5, 12.5, 12.5)
    }


def test_interval_is_the_normal_one_on_many_rows() -> None:
    rows = np.random.default_rng(3).gamma(4.0, 8.0, size=2000)
    interval = bootstrap({"rouge1": rows}, samples=4000, seed=1)["rouge1"]
    half_width = 1.959964 * rows.std(ddof=1) / np.sqrt(len(rows))
    assert interval.value == pytest.approx(rows.mean())
    assert interval.low == pytest.approx(rows.mean() - half_width, abs=0.1 * half_width)
    assert interval.high == pytest.approx(rows.mean() + half_width, abs=0.1 * half_width)


def test_variants_share_their_resamples_and_the_seed_decides() -> None:
    rows = np.random.default_rng(0).uniform(0, 100, size=40)
    both = bootstrap({"rouge1": rows, "rouge2": rows / 2}, samples=200, seed=5)
    assert both["rouge2"].low == pytest.approx(both["rouge1"].low / 2)
    assert both["rouge2"].high == pytest.approx(both["rouge1"].high / 2)
    assert both == bootstrap({"rouge1": rows, "rouge2": rows / 2}, samples=200, seed=5)
    assert both != bootstrap({"rouge1": rows, "rouge2": rows / 2}, samples=200, seed=6)


@pytest.mark.parametrize(
    ("per_row", "samples"),
    [({}, 10), ({"a": np.zeros(0)}, 10), ({"a": np.zeros(3), "b": np.zeros(2)}, 10), ({"a": np.zeros(3)}, 0)],
)
def test_bootstrap_refuses(per_row: dict[str, np.ndarray], samples: int) -> None:
    with pytest.raises(ValueError, match="bootstrap needs"):
        bootstrap(per_row, samples, seed=0)


def test_logging_configured_anew_does_not_close_a_redirected_standard_error(tmp_path: Path) -> None:
    """In a process of its own: absl keeps the standard error of the moment when it is imported."""
    script = """
import logging.config, sys
redirected = sys.stderr = open(sys.argv[1], "w")
from summarizer.evaluation.metrics import score_pairs
score_pairs(["a b"], ["a c"], show=False)
sys.stderr = sys.__stderr__
logging.config.dictConfig({"version": 1})
redirected.write("still open")
redirected.close()
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "errors.txt")], check=True)
    assert (tmp_path / "errors.txt").read_text() == "still open"


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
    found = losses.interval(2000, 0)
    assert (found.value, found.low, found.high) == pytest.approx((8 / 7, min(resamples), max(resamples)))
    assert found == losses.interval(2000, 0)
