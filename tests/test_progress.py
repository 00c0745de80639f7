"""Bars at a terminal, lines elsewhere, silence on the other ranks."""

from __future__ import annotations

import logging

import pytest
from terminal import run_in_terminal

from summarizer import progress

SCRIPT = """
import logging, time
from summarizer import progress
logging.basicConfig(level="INFO", handlers=[progress.ConsoleHandler()])
with progress.bar("training", 3, done=1) as bar:
    for _ in range(2):
        bar.note("loss 1.234")
        bar.advance()
        logging.info("a line above")
"""


def test_lines_where_nobody_watches(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO), progress.bar("work", 4, done=1) as bar:
        bar.note("loss 1.000")
        bar.advance()
        bar.advance(2)
    assert [line.split(",")[0] for line in caplog.messages] == ["work: 2/4", "work: 4/4"]
    assert all("loss 1.000" in line for line in caplog.messages)


def test_silence_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO), progress.bar("work", 4, show=False) as bar:
        bar.advance(4)
    assert caplog.messages == []


def test_the_time_left_counts_only_what_this_process_did(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A resumed run that did nothing of the first 90 must not take them for done in no time."""
    clock = iter([0.0, 50.0, 50.0, 50.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO), progress.bar("work", 100, done=90) as bar:
        bar.advance(5)
    assert "work: 95/100, 50 s left" in caplog.messages[0]


def test_a_live_bar_at_a_terminal() -> None:
    screen, code = run_in_terminal(SCRIPT, width=100, height=24)
    assert code == 0
    text = "\n".join(screen.lines)
    assert "training" in text
    assert "3/3" in text
    assert "loss 1.234" in text
    assert text.count("a line above") == 2
