"""What a terminal gets of a model's words, and a pipe."""

from __future__ import annotations

import io
import sys

import pytest

from summarizer.summaries.standard_output import _clean, print_summaries


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
    class Written:
        def prepare(self, article: str) -> Written:
            return self

        cut_tokens = 0

        def stream(self, article: object, *, trial: int | None) -> list[str]:
            return ["naïve ", "“quoted”"]

    from summarizer.data.articles import Item

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    print_summaries(Written(), [Item("1", "a.txt", "x")], 0, headed=False)  # type: ignore[arg-type]
    assert raw.getvalue() == "naïve ?quoted?\n".encode("latin-1")
