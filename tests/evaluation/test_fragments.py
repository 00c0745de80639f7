from __future__ import annotations

import random

import pytest

from summarizer.evaluation.fragments import Fragment, fragments, words


def figure_3(article: list[str], summary: list[str]) -> list[list[str]]:
    """The paper's procedure, line by line, in its own index arithmetic (1-based, written with - 1)."""
    found: list[list[str]] = []
    i, j = 1, 1
    while i <= len(summary):
        f: list[str] = []
        while j <= len(article):
            if summary[i - 1] == article[j - 1]:
                i_, j_ = i, j
                while i_ <= len(summary) and j_ <= len(article) and summary[i_ - 1] == article[j_ - 1]:
                    i_, j_ = i_ + 1, j_ + 1
                if len(f) < i_ - i:
                    f = summary[i - 1 : i_ - 1]
                j = j_
            else:
                j += 1
        i, j = i + max(len(f), 1), 1
        if f:
            found.append(f)
    return found


def test_fragments_are_figure_3s_on_random_words() -> None:
    generator = random.Random(1)
    counts: list[int] = []
    for _ in range(2000):
        letters = "abcdefgh"[: generator.randint(1, 8)]
        article = generator.choices(letters, k=generator.randint(0, 25))
        summary = generator.choices(letters + "z", k=generator.randint(0, 12))
        found = fragments(article, summary)
        assert [summary[f.summary_start : f.summary_start + f.length] for f in found] == figure_3(
            article, summary
        )
        for f in found:
            ours = summary[f.summary_start : f.summary_start + f.length]
            assert article[f.article_start : f.article_start + f.length] == ours
        counts.append(len(found))
    assert max(counts) > 5
    assert min(counts) == 0


def test_by_hand() -> None:
    article = ["the", "cat", "sat", "on", "the", "mat", "and", "the", "cat", "ran"]
    summary = ["a", "cat", "ran", "and", "the", "cat", "sat"]
    assert fragments(article, summary) == [Fragment(1, 8, 2), Fragment(3, 6, 3), Fragment(6, 2, 1)]
    # a run that starts inside one already tried is passed over: "a a b" stands in the article
    assert [f.length for f in fragments(list("aaab"), list("aab"))] == [2, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop, U.S.-based Mr. O’Neil!", ["don't", "stop", "u", "s", "based", "mr", "o'neil"]),
        ("He paid $3.5m or 1,200 ... 'quoted' .", ["he", "paid", "3.5", "m", "or", "1,200", "quoted"]),
        ("Élan\nвода_x", ["élan", "вода", "x"]),
        (" .\n", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected
