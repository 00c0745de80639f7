"""SIGINT and SIGTERM as a request that the loop answers at the end of a step; a second one ends at once."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from summarizer.errors import StopRequested

SIGNALS = (signal.SIGINT, signal.SIGTERM)
log = logging.getLogger(__name__)


class StopSignal:
    """Remembers which signal came first; `None` until one does."""

    number: int | None = None

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise StopRequested(number)
        self.number = number
        log.warning(
            "%s: finishing this step, then saving; once more stops at once", signal.Signals(number).name
        )


@contextmanager
def listening() -> Iterator[StopSignal]:
    """Within the block, signals are remembered rather than raised. Only the main thread can listen."""
    stop = StopSignal()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, stop.receive)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
