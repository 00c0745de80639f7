"""Bars at a terminal, lines elsewhere, silence on the other ranks."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import time

import pytest
from rich.console import Console
from terminal import run_in_terminal

from summarizer.console import progress

SCRIPT = """
import logging, time
from summarizer.console import progress
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


def test_rate_and_time_left_at_a_terminal() -> None:
    script = """
import time
from summarizer.console import progress
with progress.bar("loading the base", 4_000_000_000, unit="bytes") as bar:
    for _ in range(4):
        time.sleep(0.2)
        bar.advance(500_000_000)
    bar.expect(EXPECTED)
    progress.shown.get().refresh()
    LEAVE
"""

    def line(expected: str, leave: str) -> str:
        marked = script.replace("EXPECTED", expected).replace("LEAVE", leave)
        screen, code = run_in_terminal(marked, width=120, height=24)
        assert code == 0
        (found,) = (line for line in screen.lines if line.startswith("loading the base"))
        assert "2.0/4.0 GB" in found
        assert found.rstrip().endswith(" GB/s")
        return found

    amid = "import os; os._exit(0)"  # what is on the screen while the work goes on
    assert re.search(r"0:00:0\d 0:00:0\d left", line("None", amid))
    assert re.search(r"0:00:0\d 1[45] s left", line("time.monotonic() + 15", amid))
    assert "left" not in line("time.monotonic() + 15", "pass"), "nothing is waited for once it is over"


def test_where_a_line_is_too_long_the_bar_gives_way_and_not_the_note() -> None:
    bars = progress.Bars(Console(width=80))
    bars.add_task("summarizing 8 articles", total=8, note="reading 12,345 tokens", unit="")
    bars.add_task("loading the base model", total=134_000_000, note="", unit="bytes")
    screen = Console(width=80, color_system=None, file=io.StringIO())
    with screen.capture() as capture:
        screen.print(bars.make_tasks_table(bars.tasks))
    first, second = capture.get().splitlines()
    assert first.rstrip().endswith("reading 12,345 tokens")
    assert "0.0/134.0 MB" in second


def test_three_days_are_some_hundred_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s[0])
    with caplog.at_level(logging.INFO), progress.bar("training", 259_200) as bar:
        for second in range(1, 259_201):
            now_s[0] = float(second)
            bar.advance()
            if second == 600:
                first_minutes = len(caplog.messages)
    assert 30 <= first_minutes <= 60
    assert 300 <= len(caplog.messages) <= 600
    assert caplog.messages[0] == "training: 10/259,200, 72 h 00 min left, 1.0/s"


def test_processes_beside_the_first_show_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "WORTH_A_LINE_S", 0.0)
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.INFO), progress.working("planning"), progress.bar("ROUGE", 4) as bar:
        bar.advance()
        time.sleep(0.05)
    assert caplog.messages == []


def test_work_that_cannot_be_counted_says_that_it_is_under_way_and_how_long_it_took(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), progress.working("planning"):
        pass
    assert caplog.messages == [], "short work is not worth a word"
    monkeypatch.setattr(progress, "PLAIN_LINE_EVERY_S", 0.05)
    monkeypatch.setattr(progress, "WORTH_A_LINE_S", 0.1)
    with caplog.at_level(logging.INFO), progress.working("planning"):
        time.sleep(0.3)
    assert caplog.messages == ["planning: under way", "planning: took 0 s"]


def test_work_that_cannot_be_counted_at_a_terminal() -> None:
    script = """
import logging, time
from summarizer.console import progress
logging.basicConfig(level="INFO", handlers=[progress.ConsoleHandler()])
progress.WORTH_A_LINE_S = 1.0
with progress.working("planning"):
    time.sleep(1.2)
"""
    screen, code = run_in_terminal(script, width=100, height=24)
    text = "\n".join(screen.lines)
    assert code == 0
    assert "0:00:01" in text
    assert "left" not in text  # that second is gone, and nobody knows how many are to come
    assert "planning: took 1 s" in text


def test_a_pipe_stays_one_where_colors_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook, whose kernel sets it for the commands that its cells start."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert "a line above" in done.stderr
    assert "━" not in done.stderr
