"""What there is to summarize: each article with its name, and what cannot be one, with the reason."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import category

CONTROL = "Cc"
"""Unicode's category of characters that command a terminal."""


@dataclass(frozen=True)
class Item:
    """One article. source: where it lies, for a person, such as "news.jsonl row 3"."""

    id: str
    source: str
    article: str = field(repr=False)
    reference: str | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """Changes with the article's text."""
        return hashlib.sha256(self.article.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class BadItem:
    """What cannot be summarized. reason: words that follow its source, such as "is empty"."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source} {self.reason}"


@dataclass(frozen=True)
class ItemColumns:
    """Where a table's fields are."""

    article: str
    reference: str
    """Used where a file has it."""
    id: str | None
    """None numbers the rows, from 0 over all tables, as a split's rows are."""
    id_is_required: bool = False
    """Whether a table without that column is a mistake, or has its rows numbered."""


def name_of(path: Path) -> str:
    """A path as text that can be shown: a name may be no UTF-8, or hold what moves a terminal's cursor."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(letter if category(letter) != CONTROL else f"\\x{ord(letter):02x}" for letter in text)
