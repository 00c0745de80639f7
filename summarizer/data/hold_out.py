"""Validation rows that are held out of the training rows, each by a hash of its article.

Equal articles are on one side. With a share, the side of a row depends on its article alone: neither on the other
rows, nor on their order, nor on a seed, and a larger share holds out what a smaller one does and more. A number of
rows takes those of the smallest hashes, so that it changes with other rows as little as it can.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from summarizer.config.schema import Columns, DataConfig
from summarizer.data.rows import BadRow, RawRow, Row, check_row
from summarizer.errors import ConfigError

SplitName = Literal["train", "validation", "test"]
HASHES = 2**64


def hold_out_of(spec: DataConfig) -> int | float | None:
    """What share of the training rows, or how many of them, are validation rows; None where those are elsewhere."""
    return spec.validation if isinstance(spec.validation, int | float) else None


def rows_from(spec: DataConfig, split: str) -> tuple[str, str | list[str] | None]:
    """The split whose config key says where a split's rows are, and what it says; None where it names nothing."""
    source = "train" if split == "validation" and hold_out_of(spec) is not None else split
    named: str | list[str] | None = getattr(spec, source)
    return source, named


def article_hash(article: str) -> int:
    """Below HASHES; the same for articles that differ in white space alone."""
    digest = hashlib.sha256(" ".join(article.split()).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def is_confirming(article: str) -> bool:
    """Whether it is of the half of the validation rows that the answer of a sweep is confirmed on.

    By other bits of the hash than `article_hash`, whose smallest values are the validation rows already.
    """
    digest = hashlib.sha256(" ".join(article.split()).encode()).digest()
    return bool(digest[8] & 1)


@dataclass(frozen=True)
class HoldOut:
    """Which usable rows are validation rows: those whose hash is below a bound."""

    below: int

    def side(self, rows: Iterable[Row | BadRow], split: SplitName) -> Iterator[Row | BadRow]:
        """The rows of that split. Unusable ones, which have no article to tell, are the training split's."""
        for row in rows:
            held = isinstance(row, Row) and article_hash(row.article) < self.below
            if held == (split == "validation"):
                yield row


def hold_out(wanted: int | float, rows: Iterable[RawRow | BadRow], columns: Columns) -> HoldOut:
    """What holds out a share, or a number of rows. rows: all of them, which only a number asks for.

    Raises ConfigError where a number leaves nothing to train on.
    """
    if isinstance(wanted, float):
        return HoldOut(round(wanted * HASHES))
    smallest: list[int] = []  # negated, as heapq pops the smallest
    total = 0
    for index, raw in enumerate(rows):
        if isinstance(raw, BadRow):
            continue
        row = check_row(raw[1], columns, raw[0], index, frozenset())
        if isinstance(row, BadRow):
            continue
        total += 1
        (heapq.heappush if len(smallest) < wanted else heapq.heappushpop)(
            smallest, -article_hash(row.article)
        )
    if total <= wanted:
        raise ConfigError.single(
            "data.validation", f"{wanted:,} rows held out of {total:,} leave none to train on; hold out fewer"
        )
    return HoldOut(1 - smallest[0])
