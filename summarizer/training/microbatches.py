"""How a step's examples are split over forward passes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from summarizer.data.order import EncodedRow

log = logging.getLogger(__name__)


@dataclass
class Microbatches:
    """The largest forward pass of a process; an optimizer step takes as many of them as its batch needs."""

    rows: int | None
    """Examples of each trial; None for all."""
    tokens: int | None
    """Tokens of all trials; None for any number. An example longer than that goes alone."""

    def split(
        self, batches: Sequence[Sequence[EncodedRow]], lengths: Sequence[Sequence[int]]
    ) -> Iterator[list[Sequence[EncodedRow]]]:
        """Parts of each trial's batch, in order: every trial has the same number of examples in each.

        lengths: tokens of each example.
        """
        n, start = len(batches), 0
        sizes = [n * max(own[row] for own in lengths) for row in range(len(batches[0]))]
        for end in range(1, len(sizes) + 1):
            full = self.rows is not None and end - start == self.rows
            if end == len(sizes) or full or self._too_many(sum(sizes[start : end + 1])):
                yield [own[start:end] for own in batches]
                start = end

    def halve(self, batches: Sequence[Sequence[EncodedRow]]) -> bool:
        """After running out of memory: half as much at a time. False where it was one example already."""
        rows = min(self.rows or len(batches[0]), len(batches[0]))
        if rows == 1 and (self.tokens is None or self.tokens <= 1):
            return False
        if self.tokens is not None and self.tokens > 1:
            self.tokens //= 2
        if rows > 1:
            self.rows = rows // 2
        log.warning(
            "out of memory: from here on at most %s per forward pass; optimizer steps keep their batch",
            self,
        )
        return True

    def _too_many(self, tokens: int) -> bool:
        return self.tokens is not None and tokens > self.tokens

    def __str__(self) -> str:
        limits = [f"{self.rows} examples of each trial"] if self.rows else []
        return " and ".join(limits + ([f"{self.tokens:,} tokens"] if self.tokens else []))
