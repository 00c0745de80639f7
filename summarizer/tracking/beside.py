"""A tracker beside the training: opened and told everything by a thread, in the order of what is recorded.

Importing wandb and beginning a run takes seconds of a start, each table and end more, and nothing waits for it:
`metrics.jsonl` and `summary.json` are written by the run itself. What a killed process recorded and had not handed
on yet, `replay` makes up for when the run is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from summarizer.tracking.metrics import EndStatus, SampleSummary, Tracker, UntilItFails


class Beside:
    """Satisfies `Tracker`. The first thing that fails, the opening too, is said once, and nothing follows it."""

    def __init__(self, thread: Executor, name: str, open_tracker: Callable[[], Tracker]) -> None:
        """thread: a single one, which takes what it is given in order. name: of the tracker, for the log."""
        self._thread, self._until_it_fails = thread, UntilItFails(name)
        self._tracker: Tracker | None = None

        def open_it() -> None:
            self._tracker = open_tracker()

        self._thread.submit(self._until_it_fails, open_it)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._later(lambda tracker: tracker.log(metrics, step))

    def replay(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._later(lambda tracker: tracker.replay(rows))

    def log_samples(self, step: int, rows: Sequence[SampleSummary]) -> None:
        self._later(lambda tracker: tracker.log_samples(step, rows))

    def log_adapter(self, folder: Path) -> None:
        self._later(lambda tracker: tracker.log_adapter(folder))

    def finish(self, status: EndStatus, summary: Mapping[str, Any]) -> None:
        self._later(lambda tracker: tracker.finish(status, summary))

    def _later(self, call: Callable[[Tracker], None]) -> None:
        def make() -> None:
            assert self._tracker is not None
            call(self._tracker)

        self._thread.submit(self._until_it_fails, make)
