"""How a step's examples are split over forward passes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from summarizer.data.batches import PaddingBuckets

log = logging.getLogger(__name__)


@dataclass
class Microbatches:
    """The largest forward pass of a process; an optimizer step takes as many of them as its batch needs."""

    rows: int | None
    """Examples of each trial; None for all."""
    tokens: int | None
    """Tokens of all trials; None for any number. An example longer than that goes alone."""
    few_shapes: bool = False
    """Padding makes them of few shapes, for what is recorded once for each: CUDA graphs."""

    def split(self, lengths: Sequence[Sequence[int]]) -> Iterator[slice]:
        """Which of each trial's examples go through the model together; a trial with fewer has none in the last.

        lengths: tokens of each example of each trial.
        """
        n, start = len(lengths), 0
        most = max(map(len, lengths))
        sizes = [n * max(own[row] for own in lengths if row < len(own)) for row in range(most)]
        for end in range(1, most + 1):
            full = self.rows is not None and end - start == self.rows
            if end == most or full or self._too_many(sum(sizes[start : end + 1])):
                yield slice(start, end)
                start = end

    def buckets(self, trials: int, examples: int, max_tokens: int) -> PaddingBuckets | None:
        """What padding goes up to, the same for all parts of a batch; None where few shapes are not asked for.

        examples: of the trial with the most.  max_tokens: of an example.
        """
        if not self.few_shapes:
            return None
        most = min(self.rows or examples, examples)
        tokens = most * max_tokens
        return PaddingBuckets(most, tokens if self.tokens is None else min(tokens, self.tokens // trials))

    def halve(self, examples: int) -> bool:
        """After running out of memory: half as much at a time. False where it was one example already.

        examples: of the trial with the most, in the step that did not fit.
        """
        rows = min(self.rows or examples, examples)
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
