"""Text that this program did not write itself, made safe to print: it cannot steer a terminal or break a line."""

from __future__ import annotations

import os
from pathlib import Path
from unicodedata import category

CONTROL = "Cc"
"""Unicode's category of characters that command a terminal."""


def without_controls(text: str) -> str:
    """A text in which each character that is not printable is a space: line breaks, escapes, turns of direction."""
    return "".join(c if c.isprintable() else " " for c in text)


def one_line(text: str) -> str:
    """Text from a file as one line that cannot steer a terminal: what is not printable becomes a space."""
    return " ".join(without_controls(text).split())


def file_name(path: Path) -> str:
    """A path as text that can be shown: a name may be no UTF-8, or hold what moves a terminal's cursor."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(letter if category(letter) != CONTROL else f"\\x{ord(letter):02x}" for letter in text)


def printable(text: str) -> str:
    """A text of several lines that cannot move a terminal's cursor or color it, whatever a model writes."""
    return "".join(letter if category(letter) != CONTROL or letter in "\n\t" else "\ufffd" for letter in text)
