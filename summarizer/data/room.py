"""Few shapes for many batches: what is recorded once for each shape should be recorded seldom."""

from __future__ import annotations

from dataclasses import dataclass

SIZES_PER_DOUBLING = 8
"""So at most an eighth is added. Batches of 2 rows of cnn_dailymail of up to 1,024 tokens have 386 shapes in an
epoch of 529 steps; padded so they have 17, and 3.5 % more tokens; with 4 sizes for each doubling 9, and 7.4 % more
(experiments/training_throughput/shapes.py)."""
LEAST_TOKENS = 64
"""Between two sizes: half the tile that a card's kernels multiply at once, so that less would save nothing."""
LEAST_PREDICTIONS = 16
"""The same of the few tokens that the head sees: the edge of the smallest tile of a tensor core."""


@dataclass(frozen=True)
class Room:
    """The largest forward pass of a step, for each trial. Batches that are made for it come in few shapes."""

    examples: int
    tokens: int

    def length(self, tokens: int) -> int:
        """What to fill up a row of that many tokens to; not beyond the room, where the row itself is not."""
        return max(min(rounded_up(tokens, LEAST_TOKENS), self.tokens), tokens)


def rounded_up(count: int, least: int) -> int:
    """The next of a few sizes: `least` apart, and further on SIZES_PER_DOUBLING of them for each doubling."""
    doubling = 1 << max(count - 1, 0).bit_length()
    step = max(doubling // (2 * SIZES_PER_DOUBLING), least)
    return -(-count // step) * step
