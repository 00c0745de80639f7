"""Rows scored on all cores, in their order: text in, numbers out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TypeVar

from summarizer.console import progress

T = TypeVar("T")

ROWS_WORTH_PROCESSES = 1000
"""Fewer rows are scored in this process. By CPU time with ROUGE on real summaries: a worker takes 1.7 s to start
and 3 ms a row, so that both ways take as long at about 1,100 rows on two free cores, at 650 on eight."""
CHUNK_ROWS = 64
"""How many rows a worker is given at a time: 0.2 s of work, so that the bar moves and nobody waits for the last
worker."""
IDLE_WORKER_S = 20
"""How long a worker waits for more rows before it ends: long enough for the next system's rows, and soon over where
this process was killed."""


def map_rows(
    work: Callable[..., Sequence[T]],
    *columns: Sequence[str],
    label: str,
    show: bool = True,
    processes: int | None = None,
) -> list[T]:
    """What `work` makes of the rows, one result a row, in their order, whatever the number of processes.

    work: takes a chunk of each column and returns a result per row; a function of a module, or a
        functools.partial of one, that can be pickled.
    columns: texts, all of equally many rows.
    processes: None is all cores this process may use, or itself alone below ROWS_WORTH_PROCESSES rows.
    The workers start afresh (by joblib's loky), neither forked from a process with torch's threads nor
    importing the main module again: a script needs no `if __name__ == "__main__"`. They stay for the next call
    and end when idle or with this process. Ctrl-C ends them at once, without a word from them.
    Raises ValueError if processes is below 1, and what `work` raises.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"rows are scored by at least one process, not {processes}")
    rows = len(columns[0])
    chunks = [
        tuple(column[start : start + CHUNK_ROWS] for column in columns)
        for start in range(0, rows, CHUNK_ROWS)
    ]
    if processes is None:
        processes = _cores() if rows >= ROWS_WORTH_PROCESSES else 1
    results: list[T] = []
    in_order = _in_order(work, chunks, min(processes, len(chunks)))
    with progress.bar(label, rows, show=show) as bar, closing(in_order):
        for scored in in_order:
            results.extend(scored)
            bar.advance(len(scored))
    return results


def _in_order(
    work: Callable[..., Sequence[T]], chunks: Sequence[tuple[Sequence[str], ...]], processes: int
) -> Generator[Sequence[T]]:
    if processes <= 1:
        yield from (work(*chunk) for chunk in chunks)
        return
    from joblib import Parallel, delayed

    pool = Parallel(
        n_jobs=processes, return_as="generator", max_nbytes=None, idle_worker_timeout=IDLE_WORKER_S
    )
    with _interrupts_ignored():  # what workers are started with stays theirs: only this process hears Ctrl-C
        scored = pool(delayed(work)(*chunk) for chunk in chunks)
    try:
        yield from scored
    finally:
        scored.close()  # where this process was interrupted, the workers end here


def _cores() -> int:
    from joblib import cpu_count

    return int(cpu_count())  # those that affinity and the container leave, not the machine's


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C for the milliseconds that workers take to start."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
