from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from summarizer.errors import ConfigError
from summarizer.evaluation.record import (
    VARIANTS,
    Difference,
    Evaluation,
    Interval,
    MlperfFigure,
    MlperfVerdict,
    RowsPart,
    Statistic,
    SystemPart,
    read_evaluation,
    write_evaluation,
)
from summarizer.evaluation.text_statistics import UNITS
from summarizer.reports.evaluation_report import markdown, print_evaluation
from summarizer.reports.sentences import about_the_differences, in_words


def difference(
    value: float, low: float, high: float, p: float, metric: str = "rougeL", rows: int = 500
) -> Difference:
    return Difference(
        first="a|b",
        second="base model",
        metric=metric,
        mean=Interval(value, low, high),
        p_value=p,
        p_holm=p,
        rows=rows,
    )


def statistics(words: float | None) -> dict[str, Statistic]:
    mean = None if words is None else Interval(words, words, words)
    return {name: Statistic(mean=mean, unit=unit, rows=5) for name, unit in UNITS.items()}


def system(name: str, first: float, *, loss: float | None, mlperf: MlperfVerdict | None = None) -> SystemPart:
    rouge = {v: Interval(first + n, first - 1, first + 9) for n, v in enumerate(VARIANTS)}
    return SystemPart(
        name=name,
        folder=f"runs/{name}" if loss else None,
        predictions=None,
        settings={} if loss else None,
        cut_articles=None,
        loss=loss,
        rouge=rouge,
        bertscore=None,
        statistics=statistics(first),
        mlperf=mlperf,
    )


def evaluation(
    *differences: Difference, mlperf: MlperfVerdict | None = None, notes: tuple[str, ...] = ()
) -> Evaluation:
    return Evaluation(
        protocol="mlperf-gptj" if mlperf else "own",
        rows=RowsPart(data="news_1", split="test", count=500, ids_sha256="f00", texts_sha256="ba5"),
        systems=[system("a|b", 30, loss=2.5, mlperf=mlperf), system("Lead-3", 40, loss=None)],
        references=statistics(None),
        differences=list(differences),
        bertscore_by=None,
        bootstrap_samples=1000,
        notes=list(notes),
        versions={"torch": "2"},
        git=None,
    )


def test_words_claim_what_was_shown() -> None:
    assert in_words([difference(1.23, 0.31, 2.1, 0.012)]) == [
        "a|b is better than base model by 1.2 rougeL (0.3 to 2.1, p = 0.012)."
    ]
    assert in_words([difference(-1.23, -2.1, -0.31, 0.0004)]) == [
        "a|b is worse than base model by 1.2 rougeL (0.3 to 2.1, p < 0.001)."
    ]
    assert in_words([difference(0.4, -0.5, 1.3, 0.05)]) == [
        "No significant difference between a|b and base model in rougeL (+0.4, -0.5 to 1.3, p = 0.050)."
    ]
    assert in_words([replace(difference(1.1, 0.2, 2.0, 0.012), p_holm=0.06)]) == [
        "No significant difference between a|b and base model in rougeL (+1.1, 0.2 to 2.0, p = 0.012, after Holm "
        "0.060)."
    ], "an interval without 0 agrees with the p beside it; Holm's decides"
    both = in_words(
        [
            difference(1, 0.5, 2, 0.01),
            difference(0.1, -1, 1, 0.8, "rouge2"),
            difference(2, 1, 3, 0.01, "rouge1"),
        ]
    )
    assert both == [
        "a|b is better than base model by 1.0 rougeL (0.5 to 2.0, p = 0.010), 2.0 rouge1 (1.0 to 3.0, p = 0.010).",
        "No significant difference between a|b and base model in rouge2 (+0.1, -1.0 to 1.0, p = 0.80).",
    ]


def test_few_rows_are_said_to_show_little() -> None:
    many = about_the_differences([difference(1, 0.5, 2, 0.01)])
    assert many == ["Paired over the same 500 rows; p is two-sided, by sign flips."]
    few = about_the_differences([difference(1, 0.5, 2, 0.2, rows=4)])
    assert few[-1].startswith(
        "With so few rows hardly a difference can be significant: no p value is below 0.12"
    )
    assert about_the_differences([]) == []


def test_markdown_has_every_score_with_its_interval() -> None:
    text = markdown(evaluation(difference(1, 0.5, 2, 0.01), notes=("7 of 8 articles were cut",)))
    assert "| a\\|b | 2.500 | 30.00 (29.0–39.0) | 31.00 (29.0–39.0) |" in text
    assert "| Lead-3 | – | 40.00 (39.0–49.0) |" in text
    assert "| system | loss | rouge1 | rouge2 | rougeL | rougeLsum |" in text
    assert "rougeLsum is ROUGE-L sentence by sentence" in text
    assert "| words | 30.00 | 40.00 | – |" in text
    assert "a\\|b is better than base model by 1.0 rougeL" in text
    assert "- 7 of 8 articles were cut." in text


def test_a_table_fits_into_eighty_columns_of_a_terminal() -> None:
    out = io.StringIO()
    print_evaluation(
        evaluation(), Console(file=out, force_terminal=True, width=80, highlight=False, color_system=None)
    )
    lines = out.getvalue().splitlines()
    assert any("29.0–39.0  29.0–39.0  29.0–39.0  29.0–39.0" in line for line in lines)
    assert "…" not in out.getvalue()
    piped = io.StringIO()
    print_evaluation(evaluation(), Console(file=piped, highlight=False))
    assert "\x1b" not in piped.getvalue()
    assert (
        "ROUGE is F1 in percent by the tokenizer rouge-score (words of a-z and 0-9 with the Porter stemmer,"
        in (piped.getvalue())
    )


@pytest.mark.parametrize("refusal", [None, "not the whole split (8 of 13,368 rows): no verdict"])
def test_mlperfs_verdict_is_said_or_why_there_is_none(refusal: str | None) -> None:
    passes = {"99 %": True, "99.9 %": False}
    text = markdown(
        evaluation(
            mlperf=MlperfVerdict(
                figures=(MlperfFigure(name="rouge1", value=42.6, reference=42.9865, passes=passes),),
                passed=dict.fromkeys(passes) if refusal else passes,
                refusal=refusal,
                sentences_by="nltk punkt",
                gen_num=8,
            )
        )
    )
    judged = "– | –" if refusal else "pass | fail"
    assert f"| a\\|b | rouge1 | 42.6000 | 42.9865 | 99.1 % | {judged} |" in text
    assert (refusal or "99 %: passed, 99.9 %: failed") in text
    assert "sentences cut by nltk punkt" in text
    assert "passes from 90% of the reference's" in text
    assert "GPT-J on CNN/DailyMail (v3.1 to v5.0)" in text


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_evaluation(path, evaluation(difference(1, 0.5, 2, 0.01)))
    assert read_evaluation(path) == evaluation(difference(1, 0.5, 2, 0.01))
    path.write_text(path.read_text().replace('"count": 500', '"count": "many"'))
    with pytest.raises(ConfigError, match=r"rows\.count"):
        read_evaluation(path)
    with pytest.raises(ConfigError, match="no scores to read here"):
        read_evaluation(tmp_path / "none.json")
