from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from summarizer.evaluation.metrics import bootstrap, score_pairs
from summarizer.evaluation.pipeline import (
    LEAD,
    RANDOM,
    System,
    extractive_baselines,
    lead,
    random_sentences,
    score_systems,
)
from summarizer.evaluation.record import VARIANTS, Difference, Statistic, SystemPart
from summarizer.evaluation.rows import ScoredRows
from summarizer.evaluation.statistics import sign_flip_test

REFERENCES = [f"The river {word} flooded the town on Monday." for word in "abcdefghijklmnop"]
ARTICLES = [f"A dry start. {text} Nobody was hurt. More rain is to come. It is wet." for text in REFERENCES]
ROWS = ScoredRows("rain", "test", [f"r{n}" for n in range(16)], ARTICLES, REFERENCES)
GOOD = System("good", REFERENCES, folder="runs/good", settings={"adapter": "g"}, loss=1.5)
POOR = System("poor", ["The river"] * 16, folder="runs/poor", settings={"adapter": "p"})
BASE = System("base model", ["Nothing of the kind"] * 16, settings={"adapter": None})


def scored(
    *systems: System,
) -> tuple[list[SystemPart], dict[str, Statistic], list[Difference], list[Difference]]:
    return score_systems(
        [*systems, *extractive_baselines(ROWS, 7)], ROWS, samples=50, seed=3, tokenizer="rouge-score"
    )


def test_each_system_has_the_scores_of_its_own_summaries() -> None:
    found = {system.name: system for system in scored(GOOD, POOR, BASE)[0]}
    assert list(found) == ["good", "poor", "base model", LEAD, RANDOM]
    summaries = {
        "good": REFERENCES,
        "poor": POOR.summaries,
        LEAD: [lead(article) for article in ARTICLES],
        RANDOM: [random_sentences(a, 7, i) for a, i in zip(ARTICLES, ROWS.ids, strict=True)],
    }
    for name, texts in summaries.items():
        expected = bootstrap(score_pairs(texts, REFERENCES, show=False), 50, 3)
        for variant in VARIANTS:
            score = found[name].rouge[variant]
            assert (score.value, score.low, score.high) == (
                expected[variant].value,
                expected[variant].low,
                expected[variant].high,
            )
    assert (found["good"].loss, found[LEAD].loss) == (1.5, None)
    words = found["poor"].statistics["words"]
    assert words.mean is not None
    assert (words.mean.value, words.unit, words.rows) == (2, "words", 16)


def test_the_references_are_a_yardstick_for_the_statistics() -> None:
    systems, of_references, *_ = scored(GOOD)
    assert of_references == {system.name: system for system in systems}["good"].statistics


def test_the_best_run_is_compared_with_all_but_random() -> None:
    differences = scored(POOR, GOOD, BASE)[2]
    assert {(d.first, d.second) for d in differences} == {
        ("good", other) for other in ("poor", "base model", LEAD)
    }
    assert len(differences) == 3 * len(VARIANTS)
    by = {(d.second, d.metric): d for d in differences}
    first, second = (
        score_pairs(system.summaries, REFERENCES, show=False)["rouge1"] for system in (GOOD, POOR)
    )
    assert by["poor", "rouge1"].mean.value == pytest.approx(np.mean(first - second))
    p = float(sign_flip_test((first - second)[:, None], 3)[0])
    assert by["poor", "rouge1"].p_value == p
    assert p <= by["poor", "rouge1"].p_holm <= 12 * p + 1e-9
    assert by["poor", "rouge1"].p_holm > p, "adjusted over all twelve"


def test_only_language_models_are_judged_by_mlperf() -> None:
    found = score_systems(
        [GOOD, *extractive_baselines(ROWS, 7)],
        ROWS,
        samples=10,
        seed=3,
        tokenizer="rouge-score",
        mlperf_task="mlperf-gptj",
    )[0]
    judged = found[0].mlperf
    assert judged is not None
    assert judged.refusal is not None
    assert "16 of 13,368 rows" in judged.refusal
    assert judged.passed == {"99 %": None, "99.9 %": None}
    assert {figure.name: figure.value for figure in judged.figures}["rouge1"] == 100
    assert [system.mlperf for system in found[1:]] == [None, None]


def test_bertscore_stands_beside_rouge() -> None:
    def by_encoder(predictions: Sequence[str], references: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        return {"f1": np.full(16, 88.0)}

    found = score_systems(
        [GOOD, *extractive_baselines(ROWS, 7)],
        ROWS,
        samples=10,
        seed=3,
        tokenizer="rouge-score",
        by_encoder=by_encoder,
    )[0]
    assert all(system.bertscore and system.bertscore["f1"].value == 88 for system in found)


def test_systems_on_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="15 predictions for 16 references"):
        scored(System("short", REFERENCES[:15], folder="x", settings={}))
    with pytest.raises(ValueError, match="two systems have one name"):
        scored(GOOD, GOOD)
