"""Names, numbers and quotes of a summary that its article does not have: by rules, without a model.

What is counted is what can be told apart without one; what cannot, such as a name that stands only at the start of
a sentence, is left out. An article that says the same in other words is not understood.
Source: the precision of a summary's entities against the source, Nan et al. 2021 (arXiv:2102.09130).
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex
from numpy.typing import NDArray

from summarizer.evaluation.numbers import number_values, stated_numbers
from summarizer.evaluation.parallel import map_rows
from summarizer.evaluation.record import KINDS, Kind
from summarizer.evaluation.sentences import split_sentences
from summarizer.evaluation.words import choose_tokenizer


@dataclass(frozen=True)
class Claim:
    """A name, a number or a quote of a summary, at its characters [start, end), counted in code points."""

    kind: Kind
    start: int
    end: int
    supported: bool
    """Whether its article has it."""


def claims(article: str, summary: str) -> list[Claim]:
    """All names, numbers and quotes of a summary in its order, each with whether the article has it."""
    source = _source(article)
    found = [
        *(Claim("names", start, end, known) for start, end, known in _names(source, summary)),
        *(
            Claim("numbers", start, end, bool(values & source.numbers))
            for start, end, values in stated_numbers(summary, english=source.english)
        ),
        *(
            Claim("quotes", start, end, all(part in source.squeezed for part in parts))
            for start, end, parts in _quotes(summary)
        ),
    ]
    return sorted(found, key=lambda claim: (claim.start, -claim.end))


def all_claims(articles: Sequence[str], summaries: Sequence[str], *, show: bool = True) -> list[list[Claim]]:
    """`claims` of every row, on all cores where there are rows enough.

    Raises ValueError if the two differ in length.
    """
    if len(articles) != len(summaries):
        raise ValueError(f"{len(summaries)} summaries for {len(articles)} articles")
    return map_rows(_of_rows, articles, summaries, label="names, numbers, quotes", show=show)


def counted(rows: Iterable[Sequence[Claim]]) -> dict[Kind, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """By kind, how many claims of each row its article has, and how many there are, each of shape (rows,)."""
    every = list(rows)
    return {
        kind: (
            np.array([sum(one.supported for one in row if one.kind == kind) for row in every], dtype=float),
            np.array([sum(one.kind == kind for one in row) for row in every], dtype=float),
        )
        for kind in KINDS
    }


def _of_rows(articles: Sequence[str], summaries: Sequence[str]) -> list[list[Claim]]:
    return [claims(article, summary) for article, summary in zip(articles, summaries, strict=True)]


# ---- what an article has -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """An article as claims are looked up in it."""

    english: bool
    """Whether it is written with a-z alone: numbers and endings are then read as English has them."""
    german: bool
    tokens: frozenset[str]
    """All its words, as `_token` has them."""
    capitalized: frozenset[str]
    """Those that have a capital wherever they stand."""
    stems: frozenset[str]
    """Their beginnings, up to ENDING letters shorter, where words are inflected; empty for English."""
    initials: frozenset[str]
    """The first letters of each two to MOST_INITIALS capitalized words that follow each other."""
    numbers: frozenset[float]
    squeezed: str
    """Its text as `_squeezed` has it."""


@lru_cache(maxsize=8)  # the systems of a row are asked after each other
def _source(article: str) -> _Source:
    found = [one.group() for one in _NAME_WORD.finditer(article)]
    words = [_token(word) for word in found]
    english = choose_tokenizer([article]) == "rouge-score"
    letters = "".join(token[0] for token, word in zip(words, found, strict=True) if word[0].isupper())
    return _Source(
        english=english,
        german=sum(word in GERMAN for word in words) > GERMAN_SHARE * len(words),
        tokens=frozenset(words),
        capitalized=frozenset(words) - {word for word in found if word.islower()},
        stems=frozenset() if english else frozenset(stem for word in words for stem in _beginnings(word)),
        initials=frozenset(
            letters[place : place + n]
            for n in range(2, MOST_INITIALS + 1)
            for place in range(len(letters) - n + 1)
        ),
        numbers=frozenset(number_values(article, english=english)),
        squeezed=_squeezed(article),
    )


# ---- names -------------------------------------------------------------------------------------------------------

_NAME_WORD = regex.compile(r"(?:\p{L}\.){2,}|\p{L}[\p{L}\p{M}\p{N}]*(?:['’]\p{L}[\p{L}\p{M}]*)*")
_JOINED = regex.compile(r"[^\S\n]+|[-–&]|[^\S\n]&[^\S\n]")
"""What may stand between the words of one name."""
_BEGINS_ANEW = regex.compile(r"[:;\"“”„«»‘(\[—–•*…]\s*\Z|(?:\A|\s)['-]\s*\Z")
"""Ends a text behind which a capital says nothing, as at the start of a sentence."""
_POSSESSIVE = regex.compile(r"['’]s?\Z")

_ARTICLES = "der die das und den dem ein eine ist nicht von mit für auf im zu sich"
GERMAN = frozenset(_ARTICLES.split())
GERMAN_SHARE = 0.1
"""Of the words of an article, those of GERMAN. With more it is German, whose nouns all have capitals: no names."""
TITLE_WORDS, TITLE_SHARE = 5, 0.85
"""A sentence of that many words behind the first and more, that share of them with capitals, is a headline."""
ENDING = 3
"""Letters in which two forms of an inflected name may differ at their ends, ..."""
LEAST_STEM = 4
"""... and those that they share at least."""
MOST_INITIALS = 6
_DEMONYMS = ("n", "an", "ian", "ean", "ese", "i", "ish")
_PLURALS = ("s", "es")


def _names(source: _Source, summary: str) -> Iterator[tuple[int, int, bool]]:
    """Start, end and support of each run of capitalized words; of one word, only inside a sentence."""
    if source.german:
        return
    for start, words in _sentences_of_words(summary):
        inside = [word for word in words if word.start() not in start]
        capitals = sum(word.group()[0].isupper() for word in inside)
        if len(inside) >= TITLE_WORDS and capitals >= TITLE_SHARE * len(inside):
            continue
        for run in _runs(summary, words):
            if run[0].start() in start and (
                len(run) == 1 or _token(run[0].group()) not in source.capitalized
            ):
                run = run[1:]
            tokens = [_token(word.group()) for word in run]
            if tokens:
                yield run[0].start(), run[-1].end(), _has_name(source, tokens)


def _sentences_of_words(text: str) -> Iterator[tuple[set[int], list[regex.Match[str]]]]:
    """Of each sentence the places where a capital says nothing, and its words."""
    words = list(_NAME_WORD.finditer(text))
    places = [word.start() for word in words]
    at = 0
    for sentence in split_sentences(text):
        at = text.index(sentence, at)
        own = words[bisect_left(places, at) : bisect_left(places, at + len(sentence))]
        at += len(sentence)
        anew = {
            word.start() for word in own if _BEGINS_ANEW.search(text, max(0, word.start() - 4), word.start())
        }
        yield anew | {word.start() for word in own[:1]}, own


def _runs(text: str, words: Sequence[regex.Match[str]]) -> Iterator[list[regex.Match[str]]]:
    """Capitalized words that stand side by side."""
    run: list[regex.Match[str]] = []
    for word in words:
        capital = word.group()[0].isupper() and _token(word.group()) not in _NO_NAMES
        if run and not (capital and _JOINED.fullmatch(text, run[-1].end(), word.start())):
            yield run
            run = []
        if capital:
            run.append(word)
    if run:
        yield run


_NO_NAMES = frozenset(("i", "i'm", "i've", "i'd", "i'll", "mr", "mrs", "ms", "dr"))


def _token(word: str) -> str:
    plain = word.casefold() if word.isascii() else unicodedata.normalize("NFKC", word).casefold()
    return (
        plain if plain.isalnum() else _POSSESSIVE.sub("", plain.replace("’", "'")).replace(".", "") or plain
    )


def _has_name(source: _Source, tokens: Sequence[str]) -> bool:
    """All its words, in any order; or its initials for its words, or words for its initials."""
    if all(_has(source, token) for token in tokens):
        return True
    if len(tokens) == 1:
        return 2 <= len(tokens[0]) <= MOST_INITIALS and tokens[0] in source.initials
    return "".join(token[0] for token in tokens) in source.tokens


def _has(source: _Source, token: str) -> bool:
    known = source.tokens
    if token in known:
        return True
    if not source.english:
        return any(stem in source.stems for stem in _beginnings(token))
    if any(token + ending in known for ending in (*_PLURALS, *_DEMONYMS, "y")) and len(token) >= LEAST_STEM:
        return True
    bare = token[:-1] if token[-1] == "s" else token
    return any(
        len(stem) >= LEAST_STEM - 1 and (stem in known or any(stem + vowel in known for vowel in "aeoy"))
        for form in {token, bare}
        for ending in ("", *_DEMONYMS)
        if form.endswith(ending) and (stem := form.removesuffix(ending)) != token
    ) or any(token[-1] in "aeoy" and token[:-1] + ending in known for ending in _DEMONYMS[2:])


def _beginnings(word: str) -> Iterator[str]:
    for length in range(max(len(word) - ENDING, LEAST_STEM), len(word) + 1):
        yield word[:length]


# ---- quotes ------------------------------------------------------------------------------------------------------

_QUOTE = regex.compile(
    r"“([^“”\n]+)”|«([^«»\n]+)»|„([^„“”\n]+)[“”]|「([^「」\n]+)」|『([^『』\n]+)』|\"([^\"\n]+)\""
    r"|(?<![\p{L}\p{N}])[‘']([^‘'’\n]+(?:['’]\p{L}[^‘'’\n]*)*)['’](?![\p{L}\p{N}])"
)
_SINGLE = 7
"""The group of single quotes, which are apostrophes too: of one word they are no quote."""
_LEFT_OUT = regex.compile(r"\[[^\]\n]*\]|…|\.\.\.")
_NOT_SQUEEZED = regex.compile(r"[\s\"'“”„‟‘’‚‛«»‹›「」『』`´]+")


def _quotes(text: str) -> Iterator[tuple[int, int, list[str]]]:
    """Start, end and the parts of each quote as `_squeezed` has them; what it leaves out parts it."""
    for quote in _QUOTE.finditer(text):
        group = quote.lastindex or 0
        inside = quote.group(group)
        if group == _SINGLE and len(inside.split()) < 2:
            continue
        parts = [_squeezed(part).strip(".,!?;:-–—。，！？") for part in _LEFT_OUT.split(inside)]
        if any(parts):
            yield quote.start(), quote.end(), [part for part in parts if part]


def _squeezed(text: str) -> str:
    """Without spaces, quote marks and case."""
    squeezed: str = _NOT_SQUEEZED.sub("", unicodedata.normalize("NFKC", text).casefold())
    return squeezed
