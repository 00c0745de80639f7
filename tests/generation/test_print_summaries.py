"""What a terminal gets of a model's words, and a pipe."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest

from summarizer.data.articles import Item
from summarizer.generation.print_summaries import _clean, print_summaries
from summarizer.generation.summarizer import Prepared, Summarizer


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_words_command_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "a\u00a0b\n\tc “é” 日本\x1b[2J\x07\x9b31m\rd"
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert _clean(words) == "a\u00a0b\n\tc “é” 日本\ufffd[2J\ufffd\ufffd31m\ufffdd"
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert _clean(words) == words, "a pipe gets what was written"


def test_a_locale_without_the_letters_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Written(Summarizer):
        def __init__(self) -> None:
            pass

        def prepare(self, article: str) -> Prepared:
            return Prepared((), 1, 0)

        def stream(self, article: Prepared, *, trial: int | None = 0) -> Iterator[str]:
            yield from ("naïve ", "“quoted”")

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    print_summaries(Written(), [Item("1", "a.txt", "x")], 0, headed=False)
    assert raw.getvalue() == "naïve ?quoted?\n".encode("latin-1")
