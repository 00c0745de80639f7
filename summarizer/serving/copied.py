"""Which passages of a summary stand in its article, at their places in both texts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from summarizer.evaluation.text_statistics import fragments

SHORTEST_WORDS = 3
"""Shorter runs of words are shared by any two texts on one subject: marked, they would hide what was copied."""

_WORD = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+(?:['’][^\W_]+)*")
"""As `evaluation.text_statistics.words` finds them."""


@dataclass(frozen=True)
class Passage:
    """Characters [start, end) of the summary and [article_start, article_end) of the article say the same.

    Counted in code points.
    """

    start: int
    end: int
    article_start: int
    article_end: int


@dataclass(frozen=True)
class Copied:
    """What a summary shares with its article."""

    coverage: float | None
    """Share of the summary's words inside any extractive fragment; None where it has no word."""
    density: float | None
    """Mean length, in words, of the fragment that a word of the summary belongs to."""
    passages: tuple[Passage, ...]
    """The fragments of SHORTEST_WORDS and more, in the summary's order."""


def copied(article: str, summary: str) -> Copied:
    """Source: extractive fragments, coverage and density, Grusky et al. 2018 (arXiv:1804.11283)."""
    of_article, of_summary = word_places(article), word_places(summary)
    found = fragments([word for word, _, _ in of_article], [word for word, _, _ in of_summary])
    passages = tuple(
        Passage(
            start=of_summary[one.summary_start][1],
            end=of_summary[one.summary_start + one.length - 1][2],
            article_start=of_article[one.article_start][1],
            article_end=of_article[one.article_start + one.length - 1][2],
        )
        for one in found
        if one.length >= SHORTEST_WORDS
    )
    if not of_summary:
        return Copied(None, None, passages)
    count = len(of_summary)
    return Copied(
        sum(one.length for one in found) / count, sum(one.length**2 for one in found) / count, passages
    )


def word_places(text: str) -> list[tuple[str, int, int]]:
    """Each word as it is compared, with its first character and the one behind its last."""
    return [
        (match.group().lower().replace("’", "'"), match.start(), match.end())
        for match in _WORD.finditer(text)
    ]
