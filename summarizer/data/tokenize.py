"""Rows to tokens, in order, on as many processes as are worth it."""

from __future__ import annotations

import multiprocessing
import os
from array import array
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextvars import ContextVar
from itertools import chain, islice

from summarizer.config.schema import Columns
from summarizer.data.prompt import Prompt
from summarizer.data.rows import SAME_ID, BadRow, RawRow, Row, TokenizedRow, check_row

ROWS_WORTH_PROCESSES = 2_000
"""Measured on two busy cores: 2,057 CNN/DailyMail articles took one process 7.9 s, two 6.2 s in all."""
CHUNK_ROWS = 64
CHUNKS_AHEAD = 4
"""Chunks under way per process: enough to keep it busy, few enough to keep a large split out of memory."""


def checked_rows(rows: Iterable[RawRow | BadRow], columns: Columns, prompt: Prompt) -> Iterator[Row | BadRow]:
    """Each raw row as a Row, or as a BadRow that says what is wrong. Rows without id are numbered."""
    ids: set[str] = set()
    for index, raw in enumerate(rows):
        if isinstance(raw, BadRow):
            yield raw
            continue
        row = check_row(raw[1], columns, raw[0], index, prompt.control_tokens)
        if isinstance(row, Row) and columns.id is not None:
            if row.id in ids:
                row = BadRow(row.where, SAME_ID)
            else:
                ids.add(row.id)
        yield row


def tokenize(
    rows: Iterable[Row | BadRow], prompt: Prompt, processes: int | None, wanted: int | None = None
) -> Generator[TokenizedRow | BadRow, None, None]:
    """The rows in their order, tokenized; one whose summary leaves no room for its article is a BadRow.

    processes: None is one per core that this process may use. Few rows are tokenized in this process.
    wanted: how many the caller will take; None for all.
    """
    stream = iter(rows)
    workers = available_cores() if processes is None else processes
    if wanted is not None and wanted < ROWS_WORTH_PROCESSES:
        workers = 1
    head = list(islice(stream, ROWS_WORTH_PROCESSES if workers > 1 else 0))
    if len(head) < ROWS_WORTH_PROCESSES:
        for row in chain(head, stream):
            yield from _join([row], _encode([row], prompt))
        return
    # spawn: forking a process that runs threads (torch, wandb, tokenizers) can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(prompt,)) as pool:
        under_way: deque[tuple[list[Row | BadRow], Future[list[Encoded]]]] = deque()
        chunks = _chunks(chain(head, stream))
        try:
            for chunk in chunks:
                under_way.append((chunk, pool.submit(_encode_in_worker, chunk)))
                if len(under_way) >= workers * CHUNKS_AHEAD:
                    done, future = under_way.popleft()
                    yield from _join(done, future.result())
            while under_way:
                done, future = under_way.popleft()
                yield from _join(done, future.result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def available_cores() -> int:
    """Cores that this process may use, which a container's or a scheduler's affinity can make fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Encoded = tuple["array[int]", "array[int]"] | str
"""Article and target tokens, or why the row is unusable."""

_prompt_of_worker: ContextVar[Prompt] = ContextVar("the prompt that a process of the pool was started with")


def _start_worker(prompt: Prompt) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _prompt_of_worker.set(prompt)


def _encode_in_worker(rows: Sequence[Row | BadRow]) -> list[Encoded]:
    return _encode(rows, _prompt_of_worker.get())


def _encode(rows: Sequence[Row | BadRow], prompt: Prompt) -> list[Encoded]:
    encoded: list[Encoded] = []
    for row in rows:
        if isinstance(row, BadRow):
            encoded.append(row.reason)
            continue
        target_ids = prompt.encode_target(row.summary)
        if reason := prompt.refusal(target_ids):
            encoded.append(reason)
        else:
            # Arrays cross a process border several times faster than lists of integers.
            encoded.append((array("i", prompt.encode_article(row.article)), array("i", target_ids)))
    return encoded


def _join(rows: Sequence[Row | BadRow], encoded: Sequence[Encoded]) -> Iterator[TokenizedRow | BadRow]:
    for row, tokens in zip(rows, encoded, strict=True):
        if isinstance(row, BadRow):
            yield row
        elif isinstance(tokens, str):
            yield BadRow(row.where, tokens)
        else:
            yield TokenizedRow(row, *tokens)


def _chunks(rows: Iterator[Row | BadRow]) -> Iterator[list[Row | BadRow]]:
    while chunk := list(islice(rows, CHUNK_ROWS)):
        yield chunk
