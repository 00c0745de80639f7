"""A split as a run uses it: read, checked, tokenized, counted, and kept on disk for the next time."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path

import numpy as np

from summarizer.config.schema import DataConfig
from summarizer.console import progress
from summarizer.data.cache import EntryWriter, StoredRows, cached, entry_key, read_entry
from summarizer.data.hold_out import SplitName, hold_out_of
from summarizer.data.order import EncodedRow, epoch_batches, random_stream
from summarizer.data.prompt import Prompt
from summarizer.data.rows import MOST_COUNTED, BadRow, Row, SplitReport, Tally, check_bad_rows
from summarizer.data.sources import Source, open_source
from summarizer.data.tokenize import tokenize
from summarizer.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Split:
    """Usable rows of one split, memory-mapped. Satisfies TrainingRows."""

    name: SplitName
    rows: StoredRows
    """Columns id, article, summary (texts), article_ids (uncut), target_ids (with the end token)."""
    report: SplitReport
    fingerprint: str
    """SHA-256 of ids and texts, in order."""
    training_tokens: Sequence[int] = field(repr=False)
    """Of each row in training: prompt and target, after the cut."""
    notes: tuple[str, ...] = ()
    """How the rows are read, as far as no config says so: a line each."""

    def __len__(self) -> int:
        return len(self.training_tokens)

    @cached_property
    def summary_tokens(self) -> int:
        """Of all summaries, with their end tokens."""
        import pyarrow.compute as pc

        column = self.rows.table.column("target_ids").combine_chunks()
        return int(pc.sum(pc.list_value_length(column)).as_py() or 0)

    def encoded(self, indices: Sequence[int]) -> list[EncodedRow]:
        """The rows of those numbers, in that order."""
        columns = self.rows.columns(["id", "article_ids", "target_ids"], indices)
        return [
            EncodedRow(*row)
            for row in zip(columns["id"], columns["article_ids"], columns["target_ids"], strict=True)
        ]

    def steps_per_epoch(self, batch_size: int) -> int:
        return -(-len(self) // batch_size)

    def batches(
        self, seed: int, batch_size: int, start_step: int, *, shuffle: bool, group_by_length: bool
    ) -> Iterator[list[EncodedRow]]:
        """As TrainingRows.batches; each epoch's last batch may be smaller."""
        first_epoch, passed = divmod(start_step, self.steps_per_epoch(batch_size))
        for epoch in count(first_epoch):
            batches = epoch_batches(
                self.training_tokens,
                seed,
                epoch,
                batch_size,
                shuffle=shuffle,
                group_by_length=group_by_length,
            )
            for indices in batches[passed if epoch == first_epoch else 0 :]:
                yield self.encoded(indices)


def build_split(spec: DataConfig, split: SplitName, prompt: Prompt) -> Split:
    """Read a split, or find it tokenized already.

    `data.rows` limits it to the first usable rows, or with `data.rows_seed` to a random draw of them, in the
    order drawn: a smaller draw is the start of a larger one. A draw reads the whole split and holds its rows.

    Raises ConfigError where the split is not given, cannot be read, has no usable row, or more unusable ones
    than `data.max_bad_rows`.
    """
    limit: int | None = getattr(spec.rows, split)
    if spec.streaming and split == "train" and limit is None:
        raise ConfigError.single(
            "data.streaming",
            "true, so that the train split is not kept",
            "set data.rows.train to keep so many rows",
        )
    source = open_source(spec, split)

    def build(folder: Path) -> None:
        _build_entry(folder, source, spec, split, prompt)

    if source.identity is None:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder))
            rows, report, fingerprint = read_entry(Path(folder), in_memory=True)
    else:
        key = entry_key(
            {
                "source": source.identity,
                "split": split,
                "columns": source.columns.model_dump(),
                "held_out": None if split == "test" else hold_out_of(spec),
                "limit": limit,
                "seed": None if limit is None else spec.rows_seed,
                "prompt": prompt.identity(),
            }
        )
        rows, report, fingerprint = cached(key, build)
    check_bad_rows(report, spec.max_bad_rows)  # an entry may stem from a run that accepted more
    return Split(split, rows, report, fingerprint, _training_tokens(rows, prompt), source.notes)


def _build_entry(folder: Path, source: Source, spec: DataConfig, split: SplitName, prompt: Prompt) -> None:
    limit: int | None = getattr(spec.rows, split)
    rows = source.checked(spec, split, prompt)
    if limit is not None and spec.rows_seed is not None:
        # Any row that proves too long once it is tokenized has its place taken by the next one drawn.
        rows = _drawn(rows, limit + spec.max_bad_rows + 1, spec.rows_seed, source.total)
    total = min((known for known in (source.total, limit) if known is not None), default=None)
    tally, writer = Tally(split, prompt), EntryWriter(folder)
    try:
        with (
            progress.bar(f"tokenizing {split}", total) as bar,
            closing(tokenize(rows, prompt, spec.processes, limit)) as tokenized,
        ):
            for row in tokenized:
                bar.advance()
                if isinstance(row, BadRow):
                    tally.skip(row)
                    if tally.bad_rows > spec.max_bad_rows + MOST_COUNTED:
                        break
                    continue
                tally.add(row)
                if tally.bad_rows <= spec.max_bad_rows:  # beyond, only the count of them is still wanted
                    writer.add(row)
                if tally.rows == limit:
                    break
        report = tally.report()
        if split == "validation" and hold_out_of(spec) is not None and not report.rows:
            raise ConfigError.single(
                "data.validation",
                f"{hold_out_of(spec)} holds out none of the rows of data.train",
                "give a larger share, or a number of rows",
            )
        check_bad_rows(report, spec.max_bad_rows)
        writer.close(report)
    except BaseException:
        writer.abandon()
        raise


def _drawn(rows: Iterator[Row | BadRow], size: int, seed: int, total: int | None) -> Iterator[Row | BadRow]:
    """The bad rows as they come, then `size` of the usable ones at random, in random order.

    total: how many rows there are, where that is known.
    """
    random = random_stream(seed)
    heap: list[tuple[int, int, Row]] = []  # the rows of the lowest draws; negated, as heapq pops the smallest
    with progress.bar("drawing rows", total) as bar:
        for index, row in enumerate(rows):
            bar.advance()
            if isinstance(row, BadRow):
                yield row
                continue
            entry = (-int(random.random_raw()), -index, row)
            if len(heap) < size:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)
    for _, _, row in sorted(heap, key=lambda entry: entry[:2], reverse=True):
        yield row


def _training_tokens(rows: StoredRows, prompt: Prompt) -> list[int]:
    import pyarrow.compute as pc

    fixed = len(prompt.before) + len(prompt.after)
    table = rows.table
    lengths = [  # by way of a list: pyarrow imports pandas to make an array
        np.array(pc.list_value_length(table.column(name)).to_pylist(), dtype=np.int64)
        for name in ("article_ids", "target_ids")
    ]
    tokens: list[int] = np.minimum(fixed + lengths[0] + lengths[1], prompt.max_tokens).tolist()
    return tokens
