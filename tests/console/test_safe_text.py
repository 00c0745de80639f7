"""What foreign text becomes on its way to a terminal, a log or a page."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from rich.table import Table

from summarizer.console.progress import SafeConsole
from summarizer.console.safe_text import SafeFormatter, escaped, file_name, one_line, printable, say

STEERING = "\x1b]52;c;cm0=\x07\x1b[2J\x1b]0;title\x07\u202e\u2066\x9b31m\x08\r\u2028\ud800"
FINE = "naïve “é” 日本\u00a0\u200d👩‍👧 שלום"


def is_safe(text: str) -> bool:
    return not set(text) & set(STEERING) - set("]52;c=m0[2Jtitle31")


def test_steering_is_spelt_out_and_words_stay() -> None:
    assert escaped(FINE) == FINE
    assert escaped("a\x1b[2J\u202e\x9b\n") == r"a\x1b[2J\u202e\x9b\x0a"
    assert escaped("a\n\tb", keep="\n\t") == "a\n\tb"
    for make in (escaped, one_line, lambda text: file_name(Path("x" + text.replace("\ud800", "")))):
        assert is_safe(make(STEERING)), make
    assert printable("a\nb\tc\u202e\x1b") == "a\nb\tc\ufffd\ufffd"


def test_a_line_of_a_log_is_one_line() -> None:
    record = logging.LogRecord(
        "x", logging.INFO, __file__, 1, "%s", (f"{STEERING}\n2026 ERROR forged",), None
    )
    text = SafeFormatter("%(asctime)s %(message)s").format(record)
    assert is_safe(text)
    assert text.splitlines()[1] == "  2026 ERROR forged"


def test_a_console_styles_by_itself_alone() -> None:
    out = io.StringIO()
    console = SafeConsole(out, force_terminal=True, width=200)
    table = Table(title=STEERING)
    table.add_column(f"[link=file:///x]{STEERING}")
    table.add_row(STEERING)
    console.print(table)
    console.print(f"{STEERING} [bold red]{FINE}", style="yellow")
    text = out.getvalue()
    for part in ("\x1b]52", "\x1b[2J", "\x1b]0;", "\x1b]8", "\x9b", "\u202e", "\u2066", "\x07", "\x08", "\r"):
        assert part not in text, repr(part)
    assert "\x1b[33m" in text, "its own colors stay"
    assert f"[bold red]{FINE}" in text


def test_what_a_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"two\nlines {STEERING} hf_abcdefghijklmnopqrstuvwx")
    text = capsys.readouterr().err
    assert is_safe(text)
    assert text.startswith("two\nlines ")
    assert text.endswith(" ***\n")
