"""What summaries are like, whatever their reference: length, copied passages, novelty, repetition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import regex
from numpy.typing import NDArray

from summarizer.evaluation.metrics import bootstrap
from summarizer.evaluation.parallel import map_rows
from summarizer.evaluation.record import Statistic
from summarizer.evaluation.sentences import split_sentences
from summarizer.evaluation.words import OF_WORDS, UNSPACED

WORD = regex.compile(
    rf"(?V1)\d+(?:[.,]\d+)+|[[{UNSPACED}]&&[{OF_WORDS}]]\p{{M}}*"
    rf"|[[{OF_WORDS}]--[{UNSPACED}]]+(?:['’][[{OF_WORDS}]--[{UNSPACED}]]+)*"
)

NOVEL_NGRAMS = (1, 2, 3, 4)
REPEATED_NGRAM = 3

UNITS: Mapping[str, str] = {
    "words": "words",
    "sentences": "sentences",
    "coverage": "share, 0 to 1",
    "density": "words",
    "compression": "article words per summary word",
    **{f"novel_{n}grams": "share, 0 to 1" for n in NOVEL_NGRAMS},
    f"repeated_{REPEATED_NGRAM}grams": "share, 0 to 1",
}
"""Every statistic and the unit of its values; none is in percent."""


def text_statistics(
    articles: Sequence[str], summaries: Sequence[str], *, show: bool = True, processes: int | None = None
) -> dict[str, NDArray[np.float64]]:
    """Each row's value of each of UNITS, shape (rows,); NaN where a summary is too short to have one.

    words, sentences: length, by `words` and `sentences.split_sentences`.
    coverage: share of the summary's words that are part of an extractive fragment.
    density: mean length of the fragment that a word of the summary belongs to: sum of squared lengths by words.
    compression: the article's words by the summary's.
    novel_Ngrams: share of the summary's n-grams, each occurrence counted, that the article does not have.
    repeated_3grams: 1 - different trigrams by all trigrams of the summary (seq-rep-3).
    N-grams run across sentences. The papers count spaCy's or CoreNLP's tokens, punctuation included; words alone
    give figures near theirs, not theirs.
    Raises ValueError if the two differ in length.
    Source: Grusky et al. 2018 (Newsroom, arXiv:1804.11283); novel n-grams: See et al. 2017 (arXiv:1704.04368),
    figure 6; seq-rep-n: Welleck et al. 2019 (arXiv:1908.04319).
    """
    if len(articles) != len(summaries):
        raise ValueError(f"{len(summaries)} summaries for {len(articles)} articles")
    rows = map_rows(_describe, articles, summaries, label="text statistics", show=show, processes=processes)
    values = np.asarray(rows, dtype=np.float64).reshape(len(articles), len(UNITS)).T
    return dict(zip(UNITS, np.ascontiguousarray(values), strict=True))


def mean_statistics(
    per_row: Mapping[str, NDArray[np.float64]], samples: int, seed: int
) -> dict[str, Statistic]:
    """Mean and 95 % bootstrap interval of each statistic, over the rows that have it.

    Raises ValueError for a name that is not one of UNITS and if samples is below 1.
    """
    if unknown := per_row.keys() - UNITS.keys():
        raise ValueError(f"no text statistics: {sorted(unknown)}")
    means: dict[str, Statistic] = {}
    for name, values in per_row.items():
        present = values[~np.isnan(values)]
        interval = bootstrap({name: present}, samples, seed)[name] if len(present) else None
        means[name] = Statistic(interval, UNITS[name], len(present))
    return means


def novel_share(article: Sequence[str], summary: Sequence[str], n: int) -> float:
    """Share of the summary's n-grams of words that the article does not have; NaN where it has no n-gram."""
    of_summary, of_article = _ngrams(summary, n), set(_ngrams(article, n))
    if not of_summary:
        return float("nan")
    return sum(ngram not in of_article for ngram in of_summary) / len(of_summary)


def repeated_share(summary: Sequence[str], n: int = REPEATED_NGRAM) -> float:
    """Share of the summary's n-grams of words that stood in it before; NaN where it has no n-gram."""
    ngrams = _ngrams(summary, n)
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else float("nan")


def _describe(articles: Sequence[str], summaries: Sequence[str]) -> list[list[float]]:
    return [_describe_row(article, summary) for article, summary in zip(articles, summaries, strict=True)]


def _describe_row(article_text: str, summary_text: str) -> list[float]:
    """In the order of UNITS."""
    article, summary = words(article_text), words(summary_text)
    count = len(summary)
    lengths = np.array([fragment.length for fragment in fragments(article, summary)], dtype=np.float64)
    by_length = [lengths.sum(), np.square(lengths).sum(), len(article)]
    return [
        count,
        len(split_sentences(summary_text)),
        *(value / count if count else float("nan") for value in by_length),
        *(novel_share(article, summary, n) for n in NOVEL_NGRAMS),
        repeated_share(summary),
    ]


def _ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[k:] for k in range(n)), strict=False))


def words(text: str) -> list[str]:
    """Words and numbers in lower case, without punctuation: "don't" is one, "3.5" is one, "well-known" two.

    Any script with letters; where words are not set apart by spaces, as in Chinese, each character counts as one.
    """
    return [match.group().lower().replace("’", "'") for match in WORD.finditer(text)]


@dataclass(frozen=True)
class Fragment:
    """Words of a summary that stand in its article one after the other."""

    summary_start: int
    """Index of the first word in the summary."""
    article_start: int
    """Index of the same word in the article."""
    length: int
    """How many words it has."""


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
