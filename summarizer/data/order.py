"""Which rows train together, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

T = TypeVar("T")

WINDOW_BATCHES = 50
"""Rows are sorted by length within so many batches: enough to save padding, few enough to stay shuffled."""


@dataclass(frozen=True)
class EncodedRow:
    """One example's tokens: the article's uncut, the summary's with the end token."""

    id: str
    article_ids: Sequence[int]
    target_ids: Sequence[int]


@runtime_checkable
class TrainingRows(Protocol):
    """What the training loop asks of a split, in memory or streamed."""

    def batches(
        self, seed: int, batch_size: int, start_step: int, *, shuffle: bool, group_by_length: bool
    ) -> Iterator[list[EncodedRow]]:
        """Endless over the epochs, from the batch of optimizer step `start_step` (from 0) on.

        A pure function of its arguments, so that a resumed run sees the very batches that it would have seen.
        """
        ...

    def steps_per_epoch(self, batch_size: int) -> int | None:
        """None where only reading to the end would tell."""
        ...


def epoch_batches(
    lengths: Sequence[int], seed: int, epoch: int, batch_size: int, *, shuffle: bool, group_by_length: bool
) -> list[list[int]]:
    """Row numbers of each batch of an epoch: every row once; the last batch may be smaller.

    lengths: tokens of each row, for group_by_length alone: batches of like length, themselves in random order
    where `shuffle` is on. A pure function of its arguments, on every machine.
    """
    random = random_stream(seed, epoch)
    order = permutation(len(lengths), random) if shuffle else list(range(len(lengths)))
    if group_by_length:
        order = by_length(order, [lengths[row] for row in order], batch_size)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if group_by_length and shuffle:
        short = [batches.pop()] if len(batches[-1]) < batch_size else []
        batches = [batches[index] for index in permutation(len(batches), random)] + short
    return batches


def by_length(items: Sequence[T], lengths: Sequence[int], batch_size: int) -> list[T]:
    """The items, sorted by length within each window of WINDOW_BATCHES batches."""
    window = WINDOW_BATCHES * batch_size
    return [
        items[index]
        for start in range(0, len(items), window)
        for index in sorted(range(start, min(start + window, len(items))), key=lengths.__getitem__)
    ]


def random_stream(*keys: int) -> np.random.Philox:
    """A stream of random bits of its own for each tuple of keys.

    Their number is a key too, since SeedSequence takes zeros at the end for nothing.
    """
    return np.random.Philox(np.random.SeedSequence([len(keys), *keys]))


def permutation(size: int, random: np.random.Philox) -> list[int]:
    """0 .. size-1 in random order.

    By sorting raw bits: numpy keeps bit streams the same over its versions, but not what Generator makes of
    them (NEP 19), and a resumed run may meet another numpy.
    """
    order: list[int] = np.argsort(random.random_raw(size), kind="stable").tolist()
    return order
