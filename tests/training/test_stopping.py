"""Signals are remembered while the loop listens, and mean what they always mean otherwise."""

from __future__ import annotations

import os
import signal

import pytest

from summarizer.errors import StopRequested
from summarizer.training.stopping import listening


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_remembered_and_the_second_ends(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with listening() as stop:
        assert stop.number is None
        os.kill(os.getpid(), number)
        assert stop.number == number
        with pytest.raises(StopRequested) as raised:
            os.kill(os.getpid(), number)
        assert raised.value.signal_number == number
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As a shell starts what it puts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with listening() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.number is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_sweep_ends_with_it_too() -> None:
    """Hydra goes on with the next run after an Exception."""
    assert not issubclass(StopRequested, Exception)
