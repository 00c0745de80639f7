"""Signs of life of the processes that share a run: a process that is lost can be named by the others.

A process that was killed says nothing itself, and neither does a machine that is gone; what the others have is a
broken connection, or a wait without an end. So each counts up a number of its own in the store that the launcher
keeps, from a thread that goes on while the process computes or waits. No clocks of two machines are compared.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

BEAT_S = 1.0
"""How often a process counts up."""
BROKEN_S = 5.0
"""A process that does not count up for so long once a connection broke is gone; a busy machine delays by less."""
SILENT_S = 120.0
"""After so long without a sign of some process the others end: what they wait for will not come."""
LEFT = -1_000_000_000
"""Added to the number of a process that ends by itself."""

log = logging.getLogger(__name__)


class Heartbeat:
    """This process's signs of life, and its look at those of the others, until `leave`."""

    def __init__(self, store: Store, rank: int, count: int, give_up: Callable[[str], None]) -> None:
        """store: a connection of its own.  give_up: told, from a thread, why no more is to be expected."""
        self._store, self._rank, self._count, self._give_up = store, rank, count, give_up
        self._end = threading.Event()
        store.set(
            f"process/{rank}", f"process {rank} of {count} (pid {os.getpid()} on {socket.gethostname()})"
        )
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def lost(self) -> str | None:
        """Which processes give no sign of life any more, in words; None where all do. It takes BROKEN_S to tell."""
        try:
            before = self._numbers()
            time.sleep(BROKEN_S)
            after = self._numbers()
            gone = [rank for rank in before if before[rank] == after[rank]]
            return self._named(gone, after) if gone else None
        except Exception:  # whatever a store raises whose other end is gone
            return self._without_store()

    def leave(self) -> None:
        """Tell the others that this process ends by itself."""
        if self._end.is_set():
            return
        self._end.set()
        self._thread.join(2 * BEAT_S)
        with suppress(Exception):  # they have ended before
            self._store.add(f"alive/{self._rank}", LEFT)

    def _beat(self) -> None:
        before: dict[int, int] = {}
        # Counted in beats of this process, which make none while a terminal has stopped all of them.
        beats: dict[int, int] = {}
        try:
            while not self._end.wait(BEAT_S):
                self._store.add(f"alive/{self._rank}", 1)
                numbers = self._numbers()
                for rank, number in numbers.items():
                    beats[rank] = beats.get(rank, 0) + 1 if number == before.get(rank) and number >= 0 else 0
                before = numbers
                if silent := [rank for rank in beats if beats[rank] * BEAT_S > SILENT_S]:
                    self._give_up(self._named(silent, numbers))
                    return
        except Exception:  # as in `lost`
            if not self._end.wait(SILENT_S):
                self._give_up(self._without_store())

    def _numbers(self) -> dict[int, int]:
        """Of the other processes."""
        ranks = [rank for rank in range(self._count) if rank != self._rank]
        return {rank: self._store.add(f"alive/{rank}", 0) for rank in ranks}

    def _named(self, ranks: Sequence[int], numbers: Mapping[int, int]) -> str:
        said = {True: "has ended, as its own output says", False: "was killed, or its machine is lost"}
        return "; ".join(
            f"{self._store.get(f'process/{rank}').decode()} {said[numbers[rank] < 0]}" for rank in ranks
        )

    def _without_store(self) -> str:
        return "the launcher's store is gone, and with it, as it seems, the machine of process 0"


@functools.cache
def heartbeat() -> Heartbeat:
    """That of this process, one of a launcher's, which begins with the first call."""
    from torch.distributed.rendezvous import rendezvous

    store, rank, count = next(iter(rendezvous("env://")))
    made = Heartbeat(store, rank, count, _end_process)
    atexit.register(made.leave)
    return made


def leave() -> None:
    """Tell the others, if there are any, that this process ends by itself."""
    if heartbeat.cache_info().currsize:
        heartbeat().leave()
        heartbeat.cache_clear()


def _end_process(why: str) -> None:
    """The main thread waits inside a library for what will not come: no exception would reach it."""
    log.error("%s: this run ends here, and goes on from its last checkpoint by resume=", why)
    logging.shutdown()
    os.abort()
