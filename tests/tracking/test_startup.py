"""The parts of a start: a clock that the test moves, this process's own age, and torch's compile time."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from summarizer.compat import compile_s
from summarizer.tracking.startup import Stopwatch


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_laps_take_what_passed_since_the_one_before() -> None:
    clock = Clock()
    watch = Stopwatch(97.0, clock)
    watch.lap("compose")
    clock.now_s = 104.0
    watch.lap("imports")
    clock.now_s = 110.0
    watch.lap("first step", compile=4.5)
    clock.now_s = 110.5
    watch.lap("imports")
    assert watch.parts == {"compose": 3.0, "imports": 4.5, "compile": 4.5, "first step": 1.5}
    assert list(watch.parts) == ["compose", "imports", "compile", "first step"]
    assert sum(watch.parts.values()) == clock.now_s - 97.0
    assert watch.describe() == (
        "start-up: compose 3.0 s, imports 4.5 s, compile 4.5 s, first step 1.5 s; 13.5 s in all"
    )


def test_a_later_run_begins_anew() -> None:
    clock = Clock()
    watch = Stopwatch(97.0, clock)
    watch.lap("compose")
    clock.now_s = 200.0
    watch.restart()
    clock.now_s = 201.0
    watch.lap("tokens")
    assert watch.parts == {"tokens": 1.0}


def test_a_process_is_timed_from_its_beginning() -> None:
    code = (
        "import time; time.sleep(0.4)\n"
        "from summarizer.tracking.startup import since_process_start\n"
        "watch = since_process_start(); assert list(watch.parts) == ['imports']\n"
        "time.sleep(0.3); watch.lap('compose'); assert 0.3 <= watch.parts['compose']\n"
        "print(watch.parts['imports'])"
    )
    begun_s = time.perf_counter()
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 0.4 <= float(printed) <= time.perf_counter() - begun_s + 0.02  # /proc counts in hundredths


def test_compile_time_is_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    before_s, begun_s = compile_s(), time.perf_counter()
    x = torch.ones(3, requires_grad=True)
    torch.compile(lambda x: (x.sin() * 2).sum(), backend="aot_eager")(x).backward()
    assert 0 < compile_s() - before_s < time.perf_counter() - begun_s
    monkeypatch.delitem(sys.modules, "torch._dynamo.utils")
    assert compile_s() == 0.0
