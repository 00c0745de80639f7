"""Which of a run's processes is gone, as the others tell it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from torch.distributed import TCPStore

from summarizer import heartbeat
from summarizer.heartbeat import Heartbeat


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], tuple[Heartbeat, list[str]]]:
    """A process of three, with what it is told when it is to give up."""
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.01)
    monkeypatch.setattr(heartbeat, "BROKEN_S", 0.3)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def joined(rank: int) -> tuple[Heartbeat, list[str]]:
        told: list[str] = []
        return Heartbeat(store.clone(), rank, 3, told.append), told

    return joined


def test_who_is_killed_and_who_left_are_named(join: Callable[[int], tuple[Heartbeat, list[str]]]) -> None:
    main, killed, other = (join(rank)[0] for rank in range(3))
    assert main.lost() is None
    killed._end.set()
    gone = main.lost()
    assert gone is not None
    assert gone.startswith("process 1 of 3 (pid ")
    assert gone.endswith(" was killed, or its machine is lost")
    other.leave()
    gone = main.lost()
    assert gone is not None
    assert "process 2 of 3" in gone
    assert gone.endswith(" has ended, as its own output says")
    main.leave()


def test_nobody_waits_for_a_machine_that_is_gone(
    join: Callable[[int], tuple[Heartbeat, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SILENT_S", 0.5)
    (main, told), (silent, _), (left, _) = (join(rank) for rank in range(3))
    left.leave()
    time.sleep(1.0)
    assert told == [], "one that ends by itself, as workers do, is not waited for"
    silent._end.set()
    until_s = time.monotonic() + 10
    while not told and time.monotonic() < until_s:
        time.sleep(0.02)
    assert len(told) == 1
    assert told[0].startswith("process 1 of 3")
    assert "process 2" not in told[0]
    main.leave()
