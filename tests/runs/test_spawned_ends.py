"""What becomes of a run whose spawned processes end without a word of their own."""

from __future__ import annotations

import signal
import sys
from typing import Any

import pytest
import torch.multiprocessing
from config.composing import composed

from summarizer.config.plain import to_plain
from summarizer.errors import RunsFailed, StopRequested
from summarizer.runs import launch
from summarizer.runs.record import RunRecord

SPAWN = sys.modules[torch.multiprocessing.start_processes.__module__]
"""The module, which torch hides behind a function of its name."""


class EndedProcess:
    """In torch's place: one process of a run has ended, and this one was signalled before, if at all."""

    processes = ()

    def __init__(self, exit_code: int, signalled: signal.Signals | None) -> None:
        self.exit_code, self.signalled = exit_code, signalled

    def join(self, **_: Any) -> bool:
        if self.signalled is not None:
            signal.raise_signal(self.signalled)
        name = signal.Signals(-self.exit_code).name if self.exit_code < 0 else None
        raise SPAWN.ProcessExitedException(
            "", error_index=1, error_pid=0, exit_code=self.exit_code, signal_name=name
        )


def start(monkeypatch: pytest.MonkeyPatch, exit_code: int, signalled: signal.Signals | None = None) -> None:
    monkeypatch.setattr(SPAWN, "start_processes", lambda *_, **__: EndedProcess(exit_code, signalled))
    launch.start([RunRecord(config=to_plain(composed("trainer.processes=2", "tracking=none")), folder="run")])


@pytest.mark.parametrize("exit_code", [128 + signal.SIGTERM, -signal.SIGTERM])
def test_a_stop_is_a_stop_from_the_first_moment(exit_code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal is passed on as SIGTERM, by which a process that does not listen yet ends."""
    with pytest.raises(StopRequested) as stopped:
        start(monkeypatch, exit_code, signal.SIGINT)
    assert stopped.value.signal_number == signal.SIGINT


def test_a_killed_process_is_a_failure_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunsFailed, match="process 1 of the run was ended by SIGKILL") as failed:
        start(monkeypatch, -signal.SIGKILL)
    assert failed.value.exit_code == 1


def test_a_process_that_said_it_keeps_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunsFailed, match=r"^$") as failed:
        start(monkeypatch, 2)
    assert failed.value.exit_code == 2
