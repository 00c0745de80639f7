from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from summarizer.evaluation.baselines import lead
from summarizer.evaluation.rouge import VARIANTS, score_pairs

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
