"""Text that this program did not write itself, made safe to print: it cannot steer a terminal or break a line.

The sinks call this: what is logged (`SafeFormatter`), what a command says (`say`), and the console
(`progress.SafeConsole`). So no name of a file, a row, a folder or a column needs care where it is put into words.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TextIO
from unicodedata import category

from summarizer.console.secrets import masked_text

CONTROL = "Cc"
"""Unicode's category of characters that command a terminal."""
UNSAFE = (CONTROL, "Cs", "Zl", "Zp")
"""And halves of characters, which no terminal can be sent, and separators, which some take for new lines."""
DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows. Source: Unicode's UAX 9, section 2."""


def without_controls(text: str) -> str:
    """A text in which each character that is not printable is a space: line breaks, escapes, turns of direction."""
    return "".join(c if c.isprintable() else " " for c in text)


def one_line(text: str) -> str:
    """Text from a file as one line that cannot steer a terminal: what is not printable becomes a space."""
    return " ".join(without_controls(text).split())


def escaped(text: str, keep: str = "") -> str:
    """A text whose unsafe characters are spelt out, as `\\x1b` or `\\u202e`, but for those of `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter in keep or not _is_unsafe(letter) else _spelt(letter) for letter in text)


def file_name(path: Path) -> str:
    """A path as text that can be shown: a name may be no UTF-8, or hold what moves a terminal's cursor."""
    return escaped(os.fsencode(path).decode(errors="backslashreplace"))


def printable(text: str) -> str:
    """A text of several lines that cannot move a terminal's cursor or color it, whatever a model writes."""
    return "".join(
        "\ufffd" if letter not in "\n\t" and (letter in DIRECTION or category(letter) == CONTROL) else letter
        for letter in text
    )


def said(text: str) -> str:
    """A message of several lines as it may be shown: unsafe characters spelt out, what looks secret masked."""
    return masked_text(escaped(text, keep="\n\t"))


def say(message: str, file: TextIO | None = None) -> None:
    """Print a message, on standard error unless told."""
    print(said(message), file=sys.stderr if file is None else file, flush=True)


class SafeFormatter(logging.Formatter):
    """Log lines without anything that steers a terminal, or that looks secret.

    A line break in a message is followed by an indent, so that nothing in one can pass for a line of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        return said(super().format(record)).replace("\n", "\n  ")


def _is_unsafe(letter: str) -> bool:
    return letter in DIRECTION or category(letter) in UNSAFE


def _spelt(letter: str) -> str:
    number = ord(letter)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
