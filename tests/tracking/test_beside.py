"""A tracker beside the training: everything in its order, nobody waits for it, and its failures are said once."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from summarizer.errors import ConfigError
from summarizer.tracking.beside import Beside
from summarizer.tracking.metrics import EndStatus, SampleSummary, Tracker


class Told:
    """Keeps what it is told, and by whom."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.threads: set[str] = set()

    def _keep(self, *call: object) -> None:
        self.calls.append(call)
        self.threads.add(threading.current_thread().name)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._keep("log", dict(metrics), step)

    def replay(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._keep("replay", len(rows))

    def log_samples(self, step: int, rows: Sequence[SampleSummary]) -> None:
        self._keep("samples", step)

    def log_adapter(self, folder: Path) -> None:
        self._keep("adapter", folder)

    def finish(self, status: EndStatus, summary: Mapping[str, Any]) -> None:
        self._keep("finish", status)


def test_all_is_told_in_order_while_nobody_waits(tmp_path: Path) -> None:
    told, may_open = Told(), threading.Event()

    def open_late() -> Tracker:
        assert may_open.wait(20)
        return told

    thread = ThreadPoolExecutor(1, thread_name_prefix="tracking")
    beside = Beside(thread, "wandb", open_late)
    beside.replay([{"step": 0}])
    for step in range(1, 4):
        beside.log({"loss": 1.0 / step}, step)
    beside.log_samples(3, [])
    beside.log_adapter(tmp_path)
    beside.finish("completed", {})
    assert told.calls == []
    may_open.set()
    thread.shutdown()
    assert told.calls == [
        ("replay", 1),
        *(("log", {"loss": 1.0 / step}, step) for step in range(1, 4)),
        ("samples", 3),
        ("adapter", tmp_path),
        ("finish", "completed"),
    ]
    assert told.threads == {"tracking_0"}


def test_what_cannot_be_opened_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def refused() -> Tracker:
        raise ConfigError.single("tracking.mode", "offline: wandb cannot open a run (disk full)")

    thread = ThreadPoolExecutor(1)
    beside = Beside(thread, "wandb", refused)
    beside.log({"loss": 1.0}, 1)
    beside.finish("completed", {})
    thread.shutdown()
    (line,) = caplog.messages
    assert "wandb failed and gets nothing more of this run" in line
    assert "wandb cannot open a run (disk full)" in line
