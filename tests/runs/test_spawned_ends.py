"""What becomes of a run whose processes end without a word of their own."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import torch.distributed.launcher.api
from config.composing import composed
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from summarizer.config.plain import to_plain
from summarizer.errors import RunsFailed, StopRequested
from summarizer.runs import launch
from summarizer.runs.record import RunRecord
from summarizer.runs.session import Session


def start(monkeypatch: pytest.MonkeyPatch, exit_code: int, signalled: signal.Signals | None = None) -> None:
    """A run one of whose processes ended so, after this one was signalled, if it was."""

    def elastic_launch(*_: Any) -> Any:
        def ended(*_: Any) -> None:
            if signalled is not None:
                signal.raise_signal(signalled)
            failure = ProcessFailure(local_rank=1, pid=0, exitcode=exit_code, error_file="none")
            raise ChildFailedError("run", {1: failure})

        return ended

    monkeypatch.setattr(torch.distributed.launcher.api, "elastic_launch", elastic_launch)
    config = to_plain(composed("trainer.processes=2", "tracking=none"))
    launch.start([RunRecord(config=config, folder="run")], Session())


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
