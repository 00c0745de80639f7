"""The one thread that owns the model, and the bounded line of requests before it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable

from summarizer.config.schema import GenerationConfig
from summarizer.generation.summarizer import Summarizer
from summarizer.serving.answer import Event, Unwanted, answer
from summarizer.serving.request import SummaryRequest

LONGEST_WAIT_S = 120
"""The most that a refused client is told to wait, however long the line."""

log = logging.getLogger(__name__)


class LineFullError(Exception):
    """The line is full: as many requests wait as may."""

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        self.waiting, self.retry_after_s = waiting, retry_after_s
        requests = "1 request waits" if waiting == 1 else f"{waiting} requests wait"
        super().__init__(f"{requests} already, which is as many as may; try again later")


class StoppingError(Exception):
    """The server is about to end and takes no more requests."""


class Ticket:
    """A request's place in the line. `send` hears its events, from the thread that owns the model."""

    def __init__(self, request: SummaryRequest, send: Callable[[Event], None]) -> None:
        self.request, self.send = request, send
        self.dropped = threading.Event()


class Writer:
    """Answers requests one after the other; at most `most_waiting` wait while one is being answered."""

    def __init__(self, summarizer_of: Callable[[GenerationConfig], Summarizer], most_waiting: int) -> None:
        self._summarizer_of, self._most_waiting = summarizer_of, most_waiting
        self._line: deque[Ticket] = deque()
        self._now: Ticket | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self._last_s = 1.0
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def busy(self) -> bool:
        return self._now is not None

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def submit(self, ticket: Ticket) -> None:
        """Put a request at the end of the line. Raises LineFullError, or StoppingError."""
        with self._changed:
            if self._stopping:
                raise StoppingError
            # A free thread takes what is first in the line at once, so that this one does not wait.
            waiting = len(self._line) + (self._now is not None)
            if waiting > self._most_waiting:
                expected_s = math.ceil(self._last_s * waiting)
                raise LineFullError(len(self._line), min(max(expected_s, 1), LONGEST_WAIT_S))
            self._line.append(ticket)
            ticket.send({"event": "queued", "ahead": waiting})
            self._changed.notify()

    def drop(self, ticket: Ticket) -> None:
        """Nobody waits for this request any more: it leaves the line, or is left off between two tokens."""
        ticket.dropped.set()
        with self._changed:
            if ticket in self._line:
                self._line.remove(ticket)
                self._tell_places()

    def stop(self) -> None:
        """Tell all who wait that the server ends, and leave off what is being written."""
        with self._changed:
            self._stopping = True
            for ticket in [*self._line, *([self._now] if self._now is not None else [])]:
                ticket.dropped.set()
                ticket.send({"event": "error", "message": "The server was stopped before this was done."})
            self._line.clear()
            self._changed.notify()

    def join(self) -> None:
        """Wait for the thread to leave the model, which takes one token's time."""
        if self.alive:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._line or self._stopping)
                if self._stopping:
                    return
                self._now = self._line.popleft()
                self._tell_places()
            start_s = time.perf_counter()
            try:
                self._answer(self._now)
            finally:
                with self._changed:
                    self._now = None
                    self._last_s = time.perf_counter() - start_s

    def _tell_places(self) -> None:
        for ahead, ticket in enumerate(self._line, start=1 if self._now is not None else 0):
            ticket.send({"event": "queued", "ahead": ahead})

    def _answer(self, ticket: Ticket) -> None:
        start_s = time.perf_counter()
        tokens = 0
        try:
            summarizer = self._summarizer_of(ticket.request.generation)
            for event in answer(summarizer, ticket.request, lambda: not ticket.dropped.is_set()):
                tokens += event.get("summary_tokens", 0)
                ticket.send(event)
        except Unwanted:
            log.info(
                "a request was left off after %.1f s: nobody waits for it", time.perf_counter() - start_s
            )
        except Exception:
            # Whatever went wrong with one request, memory among it, the next may go well.
            log.exception("a request failed")
            ticket.send(
                {"event": "error", "message": "The summary could not be written; the server's log says why."}
            )
        else:
            count = len(ticket.request.variants)
            log.info(
                "%d summar%s, %d tokens in %.1f s",
                count,
                "y" if count == 1 else "ies",
                tokens,
                time.perf_counter() - start_s,
            )
