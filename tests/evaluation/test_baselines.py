from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from summarizer.evaluation.metrics import score_pairs
from summarizer.evaluation.pipeline import lead, random_sentences
from summarizer.evaluation.record import VARIANTS

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "cnn_dailymail"


def test_lead_takes_the_first_sentences_one_per_line() -> None:
    article = "(CNN) -- Mr. A left. B came.\nC stayed. D ran."
    assert lead(article) == "(CNN) -- Mr. A left.\nB came.\nC stayed."
    assert lead(article, 1) == "(CNN) -- Mr. A left."
    assert lead(article, 9).count("\n") == 3
    assert lead("") == ""


def test_lead_refuses_no_sentences() -> None:
    with pytest.raises(ValueError, match="not 0"):
        lead("A.", 0)


def test_lead_3_on_real_rows_scores_what_others_measured() -> None:
    if not SHARED.is_dir():
        pytest.skip("needs shared/cnn_dailymail beside the checkout")
    with gzip.open(SHARED / "validation.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(next(file)) for _ in range(50)]
    scores = score_pairs(
        [lead(row["article"]) for row in rows], [row["highlights"] for row in rows], show=False
    )
    means = [scores[variant].mean() for variant in VARIANTS]
    print("Lead-3, validation rows 0-49:", [round(mean, 2) for mean in means])
    # MEASURED.md, with sentences by a plain regular expression
    assert means == pytest.approx([33.70, 15.33, 23.17, 30.45], abs=0.5)


ARTICLE = " ".join(f"Sentence number {word} ends." for word in ["one", "two", "three", "four", "five", "six"])


def test_random_sentences_stand_in_the_articles_order_and_hang_on_seed_and_id_alone() -> None:
    lines = ARTICLE.replace(". ", ".\n").split("\n")
    drawn = {row: random_sentences(ARTICLE, 7, str(row)) for row in range(200)}
    for text in drawn.values():
        places = [lines.index(line) for line in text.split("\n")]
        assert len(places) == 3
        assert places == sorted(set(places))
    again = {row: random_sentences(ARTICLE, 7, str(row)) for row in reversed(range(0, 200, 3))}
    assert all(drawn[row] == text for row, text in again.items())
    assert sum(random_sentences(ARTICLE, 8, str(row)) != drawn[row] for row in range(200)) > 150
    # each of the 20 ways to choose 3 of 6 turns up, each sentence in half of the rows
    assert len(set(drawn.values())) == 20
    for line in lines:
        assert 70 < sum(line in text for text in drawn.values()) < 130


def test_random_sentences_of_a_short_article_are_all_of_it() -> None:
    assert random_sentences("A came. B left.", 0, "x") == "A came.\nB left."
    assert random_sentences("", 0, "x") == ""
    assert random_sentences("A came. B left.", 0, "x", 1) in ("A came.", "B left.")
    with pytest.raises(ValueError, match="not 0"):
        random_sentences("A.", 0, "x", 0)
