"""What a summary copied: the passages that it shares with its article, word by word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """Words and numbers in lower case, without punctuation: "don't" is one, "3.5" is one, "well-known" two.

    Any script with letters; where words are not set apart by spaces, a run of letters counts as one.
    """
    return [match.group().lower().replace("’", "'") for match in _WORD.finditer(text)]


@dataclass(frozen=True)
class Fragment:
    """Words of a summary that stand in its article one after the other."""

    summary_start: int
    """Index of the first word in the summary."""
    article_start: int
    """Index of the same word in the article."""
    length: int
    """In words."""


def fragments(article: Sequence[str], summary: Sequence[str]) -> list[Fragment]:
    """The extractive fragments F(A, S) of two texts given as words, in the summary's order, none overlapping.

    Greedy: from each word of the summary the longest run that the article has too, then on behind it. The
    article is searched as the paper does it, behind a run already tried and not inside it, so that a longer run
    which starts inside another one is passed over.
    Source: Grusky et al. 2018 (Newsroom, arXiv:1804.11283), figure 3. Each repetition of a fragment counts, as
    in the authors' own code.
    """
    places: dict[str, list[int]] = {}
    for place, word in enumerate(article):
        places.setdefault(word, []).append(place)
    found: list[Fragment] = []
    start = 0
    while start < len(summary):
        best = Fragment(start, 0, 0)
        behind = 0
        for place in places.get(summary[start], ()):
            if place < behind:
                continue
            length = _common_length(article, place, summary, start)
            behind = place + length
            if length > best.length:
                best = Fragment(start, place, length)
        if best.length:
            found.append(best)
        start += max(best.length, 1)
    return found


def _common_length(article: Sequence[str], place: int, summary: Sequence[str], start: int) -> int:
    most = min(len(article) - place, len(summary) - start)
    return next((k for k in range(most) if article[place + k] != summary[start + k]), most)
