"""Copied passages, at their places in both texts."""

from __future__ import annotations

import random

import pytest

from summarizer.evaluation.text_statistics import text_statistics, words
from summarizer.serving.answer import Passage, copied, word_places


def test_a_passage_is_marked_with_its_places() -> None:
    article = "On Monday, the “head teacher” said: “No homework!” for a whole year."
    summary = "😀 He said no homework for a whole year; on Monday."
    found = copied(article, summary)
    copy, original = "said no homework for a whole year", "said: “No homework!” for a whole year"
    start, article_start = summary.index(copy), article.index(original)
    assert found.passages == (
        Passage(start, start + len(copy), article_start, article_start + len(original)),
    )


def test_every_passage_says_the_same_in_both_texts_and_the_figures_are_the_evaluations() -> None:
    draw = random.Random(0)
    vocabulary = [
        "the",
        "The",
        "cat,",
        "don’t",
        "don't",
        "3.5",
        "1,000",
        "İzmir",
        "straße",
        "well-known",
        "—",
        "ΣΑΣ",
    ]
    marked = 0
    for _ in range(300):
        article = " ".join(draw.choices(vocabulary, k=60))
        summary = "\n".join(draw.choices(vocabulary, k=20))
        found = copied(article, summary)
        for one in found.passages:
            said = words(summary[one.start : one.end])
            assert said == words(article[one.article_start : one.article_end])
            assert len(said) >= 3
            marked += 1
        starts = [one.start for one in found.passages]
        assert starts == sorted(starts)
        expected = text_statistics([article], [summary], show=False, processes=1)
        assert found.coverage == pytest.approx(expected["coverage"][0])
        assert found.density == pytest.approx(expected["density"][0])
        assert [word for word, _, _ in word_places(article)] == words(article)
    assert marked > 300


def test_an_empty_summary_has_no_figures() -> None:
    found = copied("some words", "")
    assert (found.coverage, found.density, found.passages) == (None, None, ())
