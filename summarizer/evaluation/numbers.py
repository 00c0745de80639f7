"""The numbers that a text states, as values: 1,000 and 1000, two and 2, 1.5m and 1.5 million are the same."""

from __future__ import annotations

from collections.abc import Iterator

import regex

_DIGITS = regex.compile(
    r"(?<![\p{Latin}\p{Cyrillic}\p{Greek}\p{N}])(?:\d{1,3}(?:[,.٬’'\u00a0\u202f]\d{3})+(?!\d)|\d+)(?:[.,٫]\d+)?"
)
_MAGNITUDE = regex.compile(
    r"(?i)[\s-]?(hundred|thousand|million|billion|trillion)\b|\s?(k|m|mn|bn|tn)\b", regex.V1
)
_CERTAIN = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_SHORT = {"k": 1e3, "m": 1e6, "mn": 1e6, "bn": 1e9, "tn": 1e12}
"""Beside a number these may be units too: 5 m is 5 as well."""
_HAN_UNITS = {"万": 1e4, "萬": 1e4, "億": 1e8, "亿": 1e8}
_GROUPED = regex.compile(r"\d{1,3}(?:([,.٬’'\u00a0\u202f])\d{3}(?:\1\d{3})*)(?:[.,٫]\d+)?")

_WORD = regex.compile(r"\p{L}+")
_IN_ORDER = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
"""
_UNITS = {word: value for value, word in enumerate(_IN_ORDER.split())}
_IN_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * value for value, word in enumerate(_IN_TENS.split()) if value > 1}
_IN_ROW = "no first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_ORDINALS = {word: value for value, word in enumerate(_IN_ROW.split()) if value}
_ALSO = {
    "once": 1,
    "single": 1,
    "twice": 2,
    "both": 2,
    "pair": 2,
    "couple": 2,
    "half": 50,
    "dozen": 12,
    "decade": 10,
}
"""Words of an article by which a summary may come to a number; by themselves they state none."""
_OTHERS = """
    zwei drei vier fünf sechs sieben acht neun zehn elf zwölf
    deux trois quatre cinq six sept huit neuf dix onze douze
    dos tres cuatro cinco seis siete ocho nueve diez once doce
    due tre quattro cinque sei sette otto nove dieci undici dodici
    dois três quatro cinco seis sete oito nove dez onze doze
    twee drie vier vijf zes zeven acht negen tien elf twaalf
    два три четыре пять шесть семь восемь девять десять одиннадцать двенадцать
"""
_OF_OTHERS: dict[str, set[float]] = {}
for _line in _OTHERS.strip().split("\n"):
    for _value, _of_line in enumerate(_line.split(), start=2):
        _OF_OTHERS.setdefault(_of_line, set()).add(float(_value))
_HAN = {character: value for value, character in enumerate("〇一二三四五六七八九")} | {
    "零": 0,
    "两": 2,
    "兩": 2,
}
_HAN_TENS = {"十": 10, "百": 100, "千": 1000}
_HAN_NUMBER = regex.compile("[〇零一二两兩三四五六七八九十百千]+[万萬億亿]?")

Stated = tuple[int, int, frozenset[float]]
"""Start and end in code points, and the values that may be meant."""


def stated_numbers(text: str, *, english: bool) -> Iterator[Stated]:
    """The numbers that a text states: in digits of any script, and in words from two on where it is English.

    One is as often no number ("one of them"), and "thousands" no certain one.
    """
    yield from _in_digits(text, english=english)
    if english:
        for start, end, value in _in_words(text):
            if value > 1:
                yield start, end, frozenset((value,))


def number_values(text: str, *, english: bool) -> set[float]:
    """All values that a text states or implies, such as those of first, twice and dozen."""
    found = {value for _, _, values in _in_digits(text, english=english) for value in values}
    if english:
        found |= {value for _, _, value in _in_words(text)}
        words = {word.group().lower() for word in _WORD.finditer(text)}
        return found | {float(of[word]) for of in (_ORDINALS, _ALSO) for word in words & of.keys()}
    for word in _WORD.finditer(text.lower()):
        found |= _OF_OTHERS.get(word.group(), set())
    return found | {_han_value(number.group()) for number in _HAN_NUMBER.finditer(text)}


def _in_digits(text: str, *, english: bool) -> Iterator[Stated]:
    for number in _DIGITS.finditer(text):
        values = _values(number.group(), english=english)
        end = number.end()
        if magnitude := _MAGNITUDE.match(text, end):
            certain, short = (magnitude.group(1) or "").lower(), (magnitude.group(2) or "").lower()
            factor = _CERTAIN.get(certain) or _SHORT[short]
            values = {value * factor for value in values} | (values if short else set())
            end = magnitude.end()
        elif factor := _HAN_UNITS.get(text[end : end + 1], 0.0):
            values, end = {value * factor for value in values}, end + 1
        yield number.start(), end, frozenset(round(value, 6) for value in values)


def _values(number: str, *, english: bool) -> set[float]:
    """English groups thousands by commas and has a point before decimals; elsewhere either may be either."""
    arabic = number.replace("٬", ",").replace("٫", ".")
    if english:
        plain = regex.sub(r"[,’'\u00a0\u202f](?=\d{3})", "", arabic)
        return {float(plain.replace(",", "."))} if plain.count(".") + plain.count(",") <= 1 else set()
    found = set()
    if arabic.isdecimal() or regex.fullmatch(r"\d+[.,]\d+", arabic):
        found.add(float(arabic.replace(",", ".")))
    if grouped := _GROUPED.fullmatch(number):
        mark = grouped.group(1)
        found.add(float(number.replace(mark, "").replace("٫", ".").replace(",", ".")))
    return found


def _in_words(text: str) -> Iterator[tuple[int, int, float]]:
    """Runs of English number words: start, end, value."""
    words = list(_WORD.finditer(text))
    spelled = [word.group().lower() for word in words]
    place = 0
    while place < len(words):
        if spelled[place] not in _UNITS and spelled[place] not in _TENS:
            place += 1
            continue
        total = current = 0.0
        first = last = place
        seen = False
        while place < len(words):
            word = spelled[place]
            between = text[words[place - 1].end() : words[place].start()] if place > first else ""
            if place > first and between not in (" ", "-"):
                break
            if word in _UNITS and (
                not seen or current % 100 == 0 or (current % 10 == 0 and current % 100 >= 20)
            ):
                current += _UNITS[word]
            elif word in _TENS and (not seen or current % 100 == 0):
                current += _TENS[word]
            elif word == "hundred" and seen and current:
                current *= 100
            elif word in _CERTAIN and word != "hundred" and seen and current:
                total, current = total + current * _CERTAIN[word], 0.0
            elif word == "dozen" and seen and current:
                current *= 12
            elif word == "and" and seen and (current % 100 == 0):
                place += 1
                continue
            else:
                break
            seen, last = True, place
            place += 1
        yield words[first].start(), words[last].end(), total + current
        place = last + 1


def _han_value(number: str) -> float:
    """The value of a number in Chinese numerals: 二百五十 is 250, 二〇二四 is 2024, 三万 is 30,000."""
    factor = _HAN_UNITS.get(number[-1], 1.0)
    digits = number if factor == 1 else number[:-1]
    if not any(character in _HAN_TENS for character in digits):
        return factor * float("".join(str(_HAN[character]) for character in digits))
    total = digit = 0
    for character in digits:
        if character in _HAN_TENS:
            total, digit = total + (digit or 1) * _HAN_TENS[character], 0
        else:
            digit = _HAN[character]
    return factor * (total + digit)
