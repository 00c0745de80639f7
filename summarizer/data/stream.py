"""A training split that is read as it goes, for sets that do not fit on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import TypeVar

from summarizer.config.schema import DataConfig
from summarizer.console.progress import bar
from summarizer.data.hold_out import hold_out_of
from summarizer.data.order import WINDOW_BATCHES, EncodedRow, by_length, permutation, random_stream
from summarizer.data.prompt import Prompt
from summarizer.data.rows import BadRow, Row, SplitReport, Tally, TokenizedRow, check_bad_rows
from summarizer.data.sources import open_source
from summarizer.errors import ConfigError

T = TypeVar("T")

ORDER_STREAM, BATCH_STREAM = 0, 1
"""Keys that keep the random bits of the rows' order apart from those of the batches'."""


class StreamedSplit:
    """Satisfies TrainingRows. Holds `data.shuffle_buffer_rows` rows, and one window of batches, in memory.

    Batches are always full: one may hold the last rows of an epoch and the first of the next. Rows are
    tokenized when their batch is due, so that a resumed run passes over the earlier ones at little cost (it
    reads them and tokenizes their summaries, which tell whether a row is usable).
    """

    name = "train"

    def __init__(self, spec: DataConfig, prompt: Prompt) -> None:
        """Raises ConfigError where the split cannot be read, or `data.rows_seed` asks for a draw from it."""
        if spec.rows.train is not None and spec.rows_seed is not None:
            raise ConfigError.single(
                "data.rows_seed",
                f"{spec.rows_seed} draws from the whole train split, which data.streaming=true never holds; "
                "use null, for its first rows",
            )
        self._spec, self._prompt = spec, prompt
        self._source = open_source(spec, "train")
        self._used = Tally("train", prompt)
        held = () if hold_out_of(spec) is None else (hold_out_of(spec),)
        self.fingerprint = hashlib.sha256(
            repr((spec.path, spec.config, spec.revision, spec.train, self._source.identity, *held)).encode()
        ).hexdigest()
        """Of where the rows come from, as their content is known only at the end."""

    @property
    def notes(self) -> tuple[str, ...]:
        """How the rows are read, as far as no config says so."""
        return self._source.notes

    @property
    def report(self) -> SplitReport:
        """What has been trained on so far, over all epochs, and the unusable rows met."""
        return self._used.report()

    def steps_per_epoch(self, batch_size: int) -> None:
        return None

    def batches(
        self, seed: int, batch_size: int, start_step: int, *, shuffle: bool, group_by_length: bool
    ) -> Iterator[list[EncodedRow]]:
        """As TrainingRows.batches. Raises ConfigError at the row that is one too many unusable."""
        rows = self._ordered(seed, shuffle)
        if not group_by_length:
            _pass_over(rows, start_step * batch_size)
            while True:
                yield [self._encoded(row) for row in islice(rows, batch_size)]
        first_window, passed = divmod(start_step, WINDOW_BATCHES)
        _pass_over(rows, first_window * WINDOW_BATCHES * batch_size)
        for window in count(first_window):
            held = list(islice(rows, WINDOW_BATCHES * batch_size))
            # By characters, which follow tokens closely and cost nothing to count.
            held = by_length(held, [len(row.article) for row, _ in held], batch_size)
            order: Sequence[int] = range(WINDOW_BATCHES)
            if shuffle:
                order = permutation(WINDOW_BATCHES, random_stream(seed, window, BATCH_STREAM))
            for index in order[passed if window == first_window else 0 :]:
                yield [self._encoded(row) for row in held[index * batch_size : (index + 1) * batch_size]]

    def _ordered(self, seed: int, shuffle: bool) -> Iterator[tuple[Row, list[int]]]:
        """Usable rows with their target tokens, epoch after epoch."""
        for epoch in count():
            rows = islice(self._usable(), self._spec.rows.train)
            yield from _shuffled(rows, self._spec.shuffle_buffer_rows, seed, epoch) if shuffle else rows

    def _usable(self) -> Iterator[tuple[Row, list[int]]]:
        """One pass over the source; the unusable rows are counted and refused beyond the limit."""
        found = 0
        for row in self._source.checked(self._spec, "train", self._prompt):
            bad = row if isinstance(row, BadRow) else None
            target_ids: list[int] = []
            if isinstance(row, Row):
                target_ids = self._prompt.encode_target(row.summary)
                if reason := self._prompt.refusal(target_ids):
                    bad = BadRow(row.where, reason)
                else:
                    found += 1
                    yield row, target_ids
            if bad is not None:
                self._used.skip(bad)
                if self._used.bad_rows > self._spec.max_bad_rows:
                    check_bad_rows(self._used.report(), self._spec.max_bad_rows)
        if not found:
            check_bad_rows(replace(self._used.report(), rows=0), self._spec.max_bad_rows)

    def _encoded(self, row: tuple[Row, list[int]]) -> EncodedRow:
        source, target_ids = row
        article_ids = self._prompt.encode_article(source.article)
        self._used.add(TokenizedRow(source, article_ids, target_ids))
        return EncodedRow(source.id, article_ids, target_ids)


def _pass_over(rows: Iterator[object], count: int) -> None:
    """What an earlier process trained on, read again to come to where it was."""
    with bar("passing over rows trained on before", count) as progress:
        for _ in islice(rows, count):
            progress.advance()


def _shuffled(rows: Iterator[T], buffer_rows: int, seed: int, epoch: int) -> Iterator[T]:
    """Each row once: one at random out of a buffer, whose place the next row takes, until none is left."""
    random = random_stream(seed, epoch, ORDER_STREAM)
    buffer = list(islice(rows, buffer_rows))
    for row in rows:
        # 64 random bits modulo at most some 10,000: the bias is below 1e-15.
        place = int(random.random_raw()) % len(buffer)
        drawn, buffer[place] = buffer[place], row
        yield drawn
    for index in permutation(len(buffer), random):
        yield buffer[index]
