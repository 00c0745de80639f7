"""A group at a terminal, in a pipe, alone; and the time that it says is left."""

from __future__ import annotations

import io
import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.cells import cell_len
from rich.console import Console
from terminal import run_in_terminal

from summarizer.console import progress
from summarizer.console.amounts import duration
from summarizer.console.trial_display import TrialDisplay, _TrialBars, trial_display, trial_labels
from summarizer.console.trial_lines import cut_middle, short_labels

SCRIPT = """
import logging, time
from summarizer.console import progress
from summarizer.console.trial_display import trial_display
logging.basicConfig(level="INFO", handlers=[progress.ConsoleHandler()])
labels = [f"adapter.dim={dim} optimizer.lr={lr}" for dim in (2, 4, 8, 16) for lr in ("1e-4", "3e-4", "1e-3")]
with trial_display(labels, [40] * 12, metric="val/loss") as display:
    for index in range(4):
        display.state(index, "training")
    for step in range(1, 21):
        for index in range(4):
            display.step(index, step, 2.5 + index)
        display.group(9400.0)
        time.sleep(0.02)
        if step % 5 == 0:
            logging.info("a line above, step %d", step)
    BODY
    for index in range(4):
        display.evaluated(index, 2.25 + index, 2.25 + index, 20)
        display.state(index, "done")
"""

NESTED = """
    with progress.bar("summaries", 16) as bar:
        bar.advance(3)
        time.sleep(0.6)
        progress.shown.get().refresh()
"""


@contextmanager
def shown_lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every line that a display outside a terminal writes, at each step."""
    monkeypatch.setattr(progress, "PLAIN_LINE_EVERY_S", 0.0)
    lines: list[str] = []
    with caplog.at_level(logging.INFO):
        yield lines
        lines += caplog.messages


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its only item."""
    now_s = [0.0]
    monkeypatch.setattr("summarizer.console.trial_display.time.monotonic", lambda: now_s[0])
    return now_s


def take_steps(display: TrialDisplay, at: dict[int, int], tokens_per_s: float = 100.0) -> None:
    for index, step in at.items():
        display.step(index, step, 2.0)
    display.group(tokens_per_s)


def drawn(display: TrialDisplay, width: int, height: int, tasks: int = 0) -> list[str]:
    out = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    bars = _TrialBars(display, out)
    for _ in range(tasks):
        bars.add_task("summaries", total=16, note="")
    with out.capture() as capture:
        out.print(bars.get_renderable())
    return capture.get().splitlines()


# ---- at a terminal -----------------------------------------------------------------------------------------


def test_a_group_at_a_terminal() -> None:
    screen, code = run_in_terminal(SCRIPT.replace("BODY", "pass"), 80, 30)
    assert code == 0
    assert not screen.cursor_hidden
    lines = [line.rstrip() for line in screen.lines]
    assert lines[:4] == [f"INFO:root:a line above, step {step}" for step in (5, 10, 15, 20)]
    assert lines[4].split() == ["state", "step", "loss", "val/loss", "best", "at"]
    assert lines[5].split() == ["dim=2", "lr=1e-4", "done", "20/40", "2.500", "2.250", "2.250*", "20"]
    assert lines[16].split() == ["dim=16", "lr=1e-3", "waiting", "0/40"]
    assert lines[17].startswith("12 trials ")
    assert "80/400 steps" in lines[17], "what the four that are done left out is not to be done"
    assert "9,400 tokens/s" in lines[17]
    assert lines[18:] in ([], [""])


def test_more_trials_than_lines_never_leave_the_screen() -> None:
    screen, code = run_in_terminal(SCRIPT.replace("BODY", NESTED), 80, 12)
    assert code == 0
    assert 0 < screen.highest_redrawn < 12
    lines = [line.rstrip() for line in screen.lines]
    assert lines[:4] == [f"INFO:root:a line above, step {step}" for step in (5, 10, 15, 20)]
    assert lines[4].split()[0] == "state"
    assert len(lines[5:17]) == len({line[:16] for line in lines[5:17]}) == 12, "the last drawing has them all"
    assert lines[17].startswith("12 trials ")


def test_a_bar_inside_is_a_line_of_the_display_while_it_lasts() -> None:
    marked = NESTED + "        raise SystemExit(3)\n"
    screen, code = run_in_terminal(SCRIPT.replace("BODY", marked), 100, 30)
    assert code == 3
    assert not any("summaries" in line for line in screen.lines)
    with trial_display(["a=1", "a=2"], [5, 5], metric="val/loss") as display:
        lines = drawn(display, 100, 30, tasks=2)
    assert [line.split()[0] for line in lines] == ["state", "a=1", "a=2", "2", "summaries", "summaries"]
    assert "0/16" in lines[-1]


def test_an_exception_gives_the_terminal_back_and_leaves_the_last_state() -> None:
    screen, code = run_in_terminal(SCRIPT.replace("BODY", "raise ValueError('broken')"), 80, 30)
    assert code == 1
    assert not screen.cursor_hidden
    text = "\n".join(screen.lines)
    assert text.count("dim=2 lr=1e-4") == 1
    assert "20/40" in text
    assert text.index("12 trials") < text.index("ValueError: broken")


def test_a_bar_inside_a_bar_is_a_second_line() -> None:
    script = """
import time
from summarizer.console import progress
with progress.bar("training", 3) as outer:
    outer.advance()
    with progress.bar("ROUGE", 7) as inner:
        inner.advance(2)
        inner.note("halfway")
        progress.shown.get().refresh()
        print("seen:", [task.description for task in progress.shown.get().tasks])
    outer.advance()
"""
    screen, code = run_in_terminal(script, 100, 20)
    assert code == 0
    assert screen.highest_redrawn == 1
    assert "seen: ['training', 'ROUGE']" in screen.lines[0]
    assert "training" in screen.lines[1]
    assert "2/3" in screen.lines[1]
    assert not any("halfway" in line for line in screen.lines)


# ---- width and height --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 33, 50, 66, 80, 100, 200])
@pytest.mark.parametrize("height", [4, 8, 12, 24])
def test_no_terminal_is_too_small(width: int, height: int) -> None:
    labels = [f"adapter.dim={n} optimizer.lr=1e-{n} data.note='摘要 of {n}'" for n in range(40)]
    with trial_display(labels, [120_000] * 40, metric="val/rougeLsum") as display:
        for index in range(5, 40, 3):
            display.state(index, "training")
            display.evaluated(index, 1e9, -1e9, 119_999)
        take_steps(display, dict.fromkeys(range(5, 40, 3), 119_999), 123_456_789.0)
        lines = drawn(display, width, height)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) < height
    assert lines[-1].startswith("40 trials ")
    assert lines[-1].endswith((" %", " steps", " tokens/s", " left")), "whole words, or none"
    if height >= 12:
        assert lines[-2].startswith("… ")


def test_those_at_work_are_shown_first_then_the_best_of_the_others() -> None:
    labels = [f"seed={n}" for n in range(20)]
    with trial_display(labels, [10] * 20, metric="val/rouge1") as display:
        for index in (3, 11, 17):
            display.state(index, "training")
        display.state(11, "evaluating")
        for index, value in ((5, 30.0), (8, 40.0), (9, 35.0)):
            display.evaluated(index, value, value, 4)
            display.state(index, "done")
        display.evaluated(2, 99.0, 99.0, 2)
        display.state(2, "failed")
        display.state(4, "paused")
        # Three lines for the log, one for the header, one for the bar, one that counts those not shown.
        lines = drawn(display, 80, 3 + 1 + 6 + 1)
    assert [line.split()[0] for line in lines[1:-2]] == ["seed=3", "seed=8", "seed=9", "seed=11", "seed=17"]
    assert lines[-2].split(" ", 1)[1] == "12 waiting, 1 paused, 1 done, 1 failed"
    assert [line for line in lines if "*" in line] == [line for line in lines if line.startswith("seed=8 ")]


def test_all_are_shown_where_they_just_fit() -> None:
    with trial_display([f"seed={n}" for n in range(6)], [10] * 6, metric="val/loss") as display:
        assert len(drawn(display, 80, 11)) == 1 + 6 + 1
        assert sum("seed=" in line for line in drawn(display, 80, 10)) == 4
        assert sum("seed=" in line for line in drawn(display, 80, 10, tasks=1)) == 3


def test_labels_are_short_before_they_are_cut_and_stay_different() -> None:
    assert short_labels(["adapter.dim=2 +optimizer.lr=1e-4", "adapter.dim=4 data.x.lr=a.b"]) == [
        "dim=2 +optimizer.lr=1e-4",
        "dim=4 x.lr=a.b",
    ]
    assert cut_middle("0123456789", 10) == "0123456789"
    assert cut_middle("0123456789", 5) == "01…89"
    assert cut_middle("摘要摘要", 5) == "摘…要"
    labels = [f"adapter.dim=16 optimizer.lr=1e-{n} adapter.dropout=0.1" for n in range(4)]
    with trial_display(labels, [360] * 4, metric="val/loss") as display:
        lines = drawn(display, 80, 24)[1:5]
    assert len({line.split("  ")[0] for line in lines}) == 4


def test_labels_leave_out_what_all_share() -> None:
    grid = [["model=tiny", f"adapter.dim={dim}", "seed=1"] for dim in (2, 4)]
    assert trial_labels(grid, "01") == ["adapter.dim=2", "adapter.dim=4"]
    assert trial_labels([["seed=1"], []], "01") == ["seed=1", "defaults"]
    assert trial_labels([["seed=1"]], "0") == ["seed=1"]


def test_labels_of_runs_configured_alike_are_no_longer_than_they_must_be() -> None:
    assert trial_labels([["model=tiny", "seed=1"]] * 2, ["0", "1"]) == ["run 0", "run 1"]
    twins = [["model=tiny", f"adapter.dim={dim}"] for dim in (2, 4, 2)]
    assert trial_labels(twins, "012") == ["adapter.dim=2 run 0", "adapter.dim=4", "adapter.dim=2 run 2"]


# ---- elsewhere ---------------------------------------------------------------------------------------------


def test_a_line_for_the_group_where_nobody_watches(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    labels = [f"adapter.dim={dim} optimizer.lr=3e-4" for dim in (2, 4, 8)]
    with (
        shown_lines(caplog, monkeypatch) as lines,
        trial_display(labels, [360] * 3, metric="val/loss", done=[116, 119, 120]) as display,
    ):
        for index in range(3):
            display.state(index, "training")
            display.evaluated(index, 3.0, 2.312 + (index - 2) ** 2, 100)
        clock[0] = 60.0
        take_steps(display, {0: 117, 1: 120, 2: 121}, 9000.0)
        clock[0] = 61.0
        take_steps(display, {0: 118, 1: 121, 2: 122}, 9400.0)
        display.state(1, "failed")
        display.state(2, "done")
        take_steps(display, {0: 119}, 9400.0)
    best = "best val/loss 2.312 (adapter.dim=8 optimizer.lr=3e-4)"
    assert lines[
        0
    ] == f"training 3 trials: step 117-121 of 360 each, 33 % done, 9000 tokens/s, {best}".replace(
        "9000", "9,000"
    )
    left = duration((242 + 239 + 238) / 3)  # three steps a second
    assert (
        lines[1]
        == f"training 3 trials: step 118-122 of 360 each, 33 % done, {left} left, 9,400 tokens/s, {best}"
    )
    assert lines[2].startswith("training 1 of 3 trials (1 done, 1 failed): step 119 of 360 each, 60 % done, ")
    assert len(lines) == 3


def test_lines_come_now_and_then(caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    with caplog.at_level(logging.INFO), trial_display(["a", "b"], [99, 99], metric="val/loss") as display:
        for step in range(1, 36):
            clock[0] = float(step)
            take_steps(display, {0: step, 1: step})
    assert len(caplog.messages) == 3


def test_other_ranks_show_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for labels in (["a"], ["a", "b"]):
        with (
            shown_lines(caplog, monkeypatch) as lines,
            trial_display(labels, [9] * len(labels), metric="val/loss", show=False) as display,
        ):
            take_steps(display, {0: 1})
        assert lines == []


def test_a_trial_alone_has_the_line_of_a_bar(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = itertools.chain([0.0] * 3, itertools.repeat(50.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now_s))
    with (
        shown_lines(caplog, monkeypatch) as lines,
        trial_display([""], [150], metric="val/loss", done=[34]) as display,
    ):
        display.state(0, "training")
        display.step(0, 35, 4.2371)
        display.group(2686.4)
        display.evaluated(0, 3.0, 3.0, 35)
    assert lines == ["training: 35/150, 96 min left, loss 4.237, 2,686 tokens/s"]


# ---- time left ---------------------------------------------------------------------------------------------


def test_time_left_with_unequal_totals_resumed_in_the_middle(clock: list[float]) -> None:
    """Three trials at 2 s a step together; 90 steps lie behind one of them, in another process."""
    with trial_display(["a", "b", "c", "d"], [100, 50, 30, 70], metric="val/loss", done=[90, 0, 0, 7]) as d:
        for index in range(3):
            d.state(index, "training")
        clock[0] = 1000.0  # loading and compiling
        take_steps(d, {0: 91, 1: 1, 2: 1})
        assert d.left_s is None
        for step in range(2, 6):
            clock[0] += 2.0
            take_steps(d, {0: 90 + step, 1: step, 2: step})
        left = 5 + 45 + 25 + 63
        assert d.steps == (250 - left, 250)
        assert d.left_s == pytest.approx(left * 2.0 / 3)
        d.state(1, "stopped")
        d.state(3, "paused")
        clock[0] += 2.0
        take_steps(d, {0: 96, 2: 6})
        assert d.steps == (96 + 5 + 6 + 7, 96 + 5 + 6 + 7 + 4 + 24)
        assert d.left_s == pytest.approx((4 + 24) * 6.0 / (2 * 3 + 2))  # over the last 6 of 10 s


def test_the_rate_follows_trials_that_leave_and_forgets_no_evaluation(clock: list[float]) -> None:
    with trial_display(["a", "b"], [100_000] * 2, metric="val/loss") as display:
        for index in range(2):
            display.state(index, "training")
        for step in range(1, 1001):
            clock[0] += 1.0
            take_steps(display, {0: step, 1: step})
        assert display.left_s == pytest.approx(99_000.0)
        display.state(1, "failed")
        for step in range(1001, 4001):
            clock[0] += 1.0 if step % 100 else 101.0  # an evaluation takes as long as the steps between two
            take_steps(display, {0: step})
        assert display.left_s == pytest.approx(96_000 * 2.0, rel=0.05)


def test_evaluations_to_come_are_counted_and_those_behind_are_none_of_the_steps(clock: list[float]) -> None:
    with trial_display(["a", "b"], [100] * 2, metric="val/loss") as display:
        for index in range(2):
            display.state(index, "training")
        for step in range(1, 41):
            clock[0] += 1.0
            take_steps(display, {0: step, 1: step})
        with display.evaluating([0, 1]):
            assert [line.state for line in display.lines] == ["evaluating"] * 2
            clock[0] += 1000.0
            assert display.left_s is None, "it should have been over long ago"
        assert [line.state for line in display.lines] == ["training"] * 2
        clock[0] += 1.0
        for index in range(2):
            display.step(index, 41, 2.0)
        display.group(100.0, evaluations_s=300.0)
        assert display.left_s == pytest.approx(59.0 + 300.0)
        clock[0] += 100.0
        assert display.left_s == pytest.approx(259.0), "it goes down while no step is taken"
        assert "  4 min left" in drawn(display, 80, 24)[-1]
        for index in range(2):
            display.step(index, 100, 2.0)
        display.group(100.0, evaluations_s=200.0)
        assert display.left_s == pytest.approx(200.0), "all steps are taken"
        display.state(0, "done")
        assert display.left_s == pytest.approx(200.0)
        display.state(1, "failed")
        assert display.left_s is None, "nothing is left to do"


def test_a_trial_alone_counts_evaluations_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    with (
        shown_lines(caplog, monkeypatch) as lines,
        trial_display([""], [10], metric="val/loss") as display,
    ):
        display.state(0, "training")
        for step in range(1, 4):
            clock[0] += 1.0
            display.step(0, step, 2.0)
            display.group(100.0, evaluations_s=60.0)
    assert [line.split(", ")[1] for line in lines] == ["9 s left", "68 s left", "67 s left"]


def test_a_bar_at_a_terminal_counts_down_to_the_end_that_it_was_told() -> None:
    script = """
import time
from summarizer.console import progress
with progress.bar("training", 10, done=4) as bar:
    bar.expect(time.monotonic() + 4000)
    bar.advance()
    progress.shown.get().refresh()
    import os; os._exit(0)  # the screen as it is while the work goes on
"""
    screen, code = run_in_terminal(script, 100, 20)
    assert code == 0
    assert "67 min left" in screen.lines[0]


def test_a_step_costs_microseconds() -> None:
    with trial_display([f"seed={n}" for n in range(16)], [10**6] * 16, metric="val/loss") as display:
        for index in range(16):
            display.state(index, "training")
        begun_s = time.process_time()
        for step in range(1, 1001):
            take_steps(display, dict.fromkeys(range(16), step))
        each_s = (time.process_time() - begun_s) / 1000
    assert each_s < 200e-6, "measured at 8 µs for 16 trials"
