"""Sentences by rules made for English news: nothing to download, the same on every machine.

ROUGE-Lsum and Lead-3 need them. The rules cover what newswire is full of: titles, initials, "U.S.", times of
day, quotations. Where an abbreviation may also end a sentence, the next word decides, an idea of
Kiss and Strunk 2006 (doi:10.1162/coli.2006.32.4.485), with a fixed word list in place of their statistics.
"""

from __future__ import annotations

import re

_CLOSERS = "\"'”’)\\]}»」』）】〉》"
_OPENERS = "\"'“‘(\\[{«¿¡"
_STOPS = "。！？｡؟۔।॥።։။។៕"
"""End marks of scripts that have their own: what they end is over, whatever follows.

Source: the property Sentence_Break=STerm, Unicode Standard Annex 29.
"""

_CANDIDATE = re.compile(
    rf"[.!?…]+[{_CLOSERS}]*(?:\s+[{_CLOSERS}]+(?=\s))?\s+(?=[{_OPENERS}]*[^\W_a-zß-öø-ÿа-џά-ώ])"
    rf"|[{_STOPS}][{_STOPS}!?…]*[{_CLOSERS}]*"
)
"""An end mark and what closes with it (a spaced quote too), then a capital or digit; or one of _STOPS."""

_WITHOUT_STOPS = re.compile(
    r"(?<=[\u0e01-\u0e2e\u0e30-\u0e45\u0e47-\u0e4e\u0e81-\u0ec4\u0ec8-\u0ecd])\s+(?=[\u0e01-\u0e44\u0e81-\u0ec4])"
)
"""A space between letters of Thai or Lao, which write none between words and no stop behind a sentence; not one
behind the marks of repetition and abbreviation."""
LEAST_WITHOUT_STOPS = 30
"""Characters of a Thai or Lao sentence: what a space leaves shorter, such as a name, goes on."""

_LAST_WORD = re.compile(rf"[^\s{_OPENERS}{_CLOSERS}—–-]*\Z")
_NEXT_WORD = re.compile(r"[\w'’]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TITLES = _words("""
    mr mrs ms mx dr prof rev fr sr sra hon gov sen sens rep reps gen col maj capt cmdr cpl lt sgt pvt adm pres
    supt det insp mt ft messrs mme mlle
""")
"""With a capital of their own, never the last word of a sentence."""

_LINKS = _words("vs v e.g i.e cf")
"""Never the last word of a sentence."""

_BEFORE_NUMBER = _words("""
    no nos vol pp p art sec fig ch jan feb mar apr jun jul aug sep sept oct nov dec
""")
"""Abbreviations before a digit ("No. 1", "Sept. 11"), words of their own elsewhere ("He said no.")."""

_EITHER = _words("""
    st ave blvd rd jr inc corp co cos ltd llc bros dept univ assn etc est approx a.m p.m ph.d m.d b.a m.a d.c
""")
"""Abbreviations that may end a sentence: the next word decides."""

_STARTERS = _words("""
    a an the he she it they we i you this that these those there here in on at by for from with to of as if
    when while where why what who how after before during since until because although though despite but and
    or so yet however meanwhile also still then now his her its their our my your not no some many most all
    both each one two another other such even just only once instead according
    it's he's she's they're we're i'm that's there's what's i've we've
""")
"""Words that, with a capital after an abbreviation, begin a sentence rather than go on with a name."""


def split_sentences(text: str) -> list[str]:
    """The sentences of `text` in order, stripped, none empty; every non-space character is in one of them.

    A newline always ends a sentence. Elsewhere `.`, `!` or `?` with its closing quotes and brackets ends one
    when space and a capital or a digit follow, unless it belongs to an abbreviation or an initial. So does an end
    mark of a script's own, such as 。 or ।, whatever follows. Thai and Lao, which have none, are cut at spaces
    between their letters.
    """
    sentences: list[str] = []
    for line in text.splitlines():
        start = 0
        for candidate in _CANDIDATE.finditer(line):
            if _ends_sentence(line, candidate):
                sentences.append(line[start : candidate.end()].strip())
                start = candidate.end()
        sentences.append(line[start:].strip())
    return [part for sentence in sentences if sentence for part in _at_spaces(sentence)]


def _at_spaces(sentence: str) -> list[str]:
    """The sentences of Thai or Lao in what no stop divides; anything else as it is."""
    parts, start = [], 0
    for space in _WITHOUT_STOPS.finditer(sentence):
        if min(space.start() - start, len(sentence) - space.end()) >= LEAST_WITHOUT_STOPS:
            parts.append(sentence[start : space.start()])
            start = space.end()
    return [*parts, sentence[start:]]


def _ends_sentence(line: str, candidate: re.Match[str]) -> bool:
    if candidate.group().rstrip() != ".":
        return True  # "!", "?", "...", or a quotation that closed: no abbreviation ends so
    word = _last_word(line[max(0, candidate.start() - 40) : candidate.start()])
    after = line[candidate.end() :]
    lowered = word.lower()
    if word in _LINKS or (lowered in _TITLES and word[0].isupper()):
        return False
    if lowered in _BEFORE_NUMBER:
        return not after[0].isdigit()
    initial = len(word) == 1 and word.isupper()
    acronym = re.fullmatch(r"(?:[A-Za-z]\.)+[A-Za-z]", word) is not None
    if not (initial or acronym or lowered in _EITHER):
        return True
    if after[0] in '"“‘([':
        return True
    following = _NEXT_WORD.match(after.lstrip("'"))
    return following is not None and following.group().lower().replace("’", "'") in _STARTERS


def _last_word(text: str) -> str:
    found = _LAST_WORD.search(text)
    return found.group() if found else ""
