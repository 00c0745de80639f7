"""What there is to summarize: each article with its name, and what cannot be one, with the reason."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


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
