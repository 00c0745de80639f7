"""SIGINT and SIGTERM as a request that the loop answers at the end of a step; a second one ends at once."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from summarizer.errors import StopRequested

SIGNALS = (signal.SIGINT, signal.SIGTERM)
log = logging.getLogger(__name__)


class StopSignal:
    """Remembers which signal came first; `None` until one does."""

    number: int | None = None

    def __init__(self, also: Callable[[int], None] | None = None) -> None:
        """also: told of the first signal, too."""
        self._also = also

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise StopRequested(number)
        self.number = number
        log.warning(
            "%s: finishing this step, then saving; once more stops at once", signal.Signals(number).name
        )
        if self._also is not None:
            self._also(number)


@contextmanager
def listening(also: Callable[[int], None] | None = None) -> Iterator[StopSignal]:
    """Within the block, signals are remembered rather than raised. Only the main thread can listen.

    also: told of the first signal, too.
    """
    stop = StopSignal(also)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, stop.receive)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
