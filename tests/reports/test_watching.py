"""Runs that still train, as `compare --watch` sees them, and the page that loads itself anew."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from comparisons import sweep
from invented_runs import make_run, without_scores
from omegaconf import OmegaConf
from page_driving import one, texts

from summarizer.compare import command
from summarizer.config.plain import read_option
from summarizer.errors import ConfigError
from summarizer.reports import watching
from summarizer.reports.html_page import page
from summarizer.reports.watching import curve, look, watch
from summarizer.runs.folder import LOCKS, claimed, holders
from summarizer.runs.record import SUMMARY
from summarizer.runs.requests import ask
from summarizer.tracking.metrics import METRICS

ON_LINUX = pytest.mark.skipif(not LOCKS.exists(), reason="the system does not say who holds a lock")


def training(folder: Path, overrides: list[str]) -> Path:
    """A run that has begun and not ended."""
    make_run(folder, overrides)
    (folder / SUMMARY).unlink()
    config = OmegaConf.load(folder / ".hydra" / "config.yaml")
    OmegaConf.save(
        OmegaConf.merge(config, {"trainer": read_option("trainer", "default")}),
        folder / ".hydra" / "config.yaml",
    )
    return folder


def long_ago(*folders: Path) -> None:
    for folder in folders:
        for path in [*folder.iterdir()]:
            os.utime(path, (time.time() - 3600, time.time() - 3600))


def test_a_curve_is_as_high_as_its_values() -> None:
    assert curve([]) == ""
    assert curve([2.0]) == "▁"
    assert curve([8.0, 4.5, 1.0]) == "█▅▁"
    long = curve([float(1000 - step) for step in range(1000)])
    assert long == "██▇▇▆▆▅▅▄▄▃▃▂▂▁▁" or (len(long) == 16 and list(long) == sorted(long, reverse=True))
    assert curve([1.0, 1.0, 1.0]) == "▁▁▁"


def test_each_run_stands_as_its_folder_says(tmp_path: Path) -> None:
    make_run(tmp_path / "0", ["adapter.dim=2"])
    training(tmp_path / "1", ["adapter.dim=4"])
    waiting = training(tmp_path / "2", ["adapter.dim=8"])
    (waiting / METRICS).unlink()
    without_scores(tmp_path / "3", ["adapter.dim=16"])
    now = look([tmp_path])
    assert [(line.label, line.state, line.step) for line in now.lines] == [
        ("dim=2", "done", 2),
        ("dim=4", "training", 2),
        ("dim=8", "waiting", 0),
        ("dim=16", "failed", 0),
    ]
    trained = now.lines[1]
    assert (trained.loss, trained.value, trained.curve) == (4.0, 3.0, "█▅▁")
    assert (now.going_on, now.left) == (True, 0)
    assert now.describe().startswith("4 runs: 1 training, 1 waiting, 1 done, 1 failed")
    with pytest.raises(ConfigError, match="no such folder"):
        look([tmp_path / "nothing"])


def test_a_clone_says_of_which_run_it_is_one(tmp_path: Path) -> None:
    training(tmp_path / "0", ["optimizer.lr=1e-3"])
    training(tmp_path / "1", ["optimizer.lr=3e-4"])
    asked = ask(tmp_path, "clone", "0", ["optimizer.lr=5e-4"])
    training(tmp_path / str(asked.folder), ["optimizer.lr=5e-4"])
    assert [line.label for line in look([tmp_path]).lines] == [
        "lr=0.001",
        "lr=0.0003",
        "lr=0.0005, a clone of run 0",
    ]


@ON_LINUX
def test_runs_that_nobody_works_on_are_left(tmp_path: Path) -> None:
    folders = [training(tmp_path / str(dim), [f"adapter.dim={dim}"]) for dim in (2, 4)]
    with ExitStack() as stack:
        stack.enter_context(claimed(folders[0]))
        long_ago(*folders)
        assert holders(folders) == {folders[0]}
        assert look([tmp_path]).going_on, "a process holds one of them, however long a step takes"
    now = look([tmp_path])
    assert (now.going_on, now.left) == (False, 2)
    assert [line.state for line in now.lines] == ["stopped", "stopped"]


@pytest.mark.parametrize("ahead_s", [3600, -3600])
def test_clocks_of_two_machines_may_differ(
    ahead_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has just written, or has not for long, seen from a machine whose clock is wrong by an hour."""
    real = time.time
    folder = training(tmp_path / "1", ["adapter.dim=4"])
    monkeypatch.setattr(watching.time, "time", lambda: real() + ahead_s)
    assert look([tmp_path]).going_on
    for path in folder.iterdir():
        os.utime(path, (real() - 600, real() - 600))
    assert not look([tmp_path]).going_on


def test_it_ends_when_all_runs_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = training(tmp_path / "1", ["adapter.dim=4"])
    make_run(tmp_path / "0", ["adapter.dim=2"])
    make_run(tmp_path / "kept" / "1", ["adapter.dim=4"])
    kept = (tmp_path / "kept" / "1" / SUMMARY).read_text()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            (other / SUMMARY).write_text(kept)

    monkeypatch.setattr(watching.time, "sleep", sleep)
    pages: list[int] = []
    with caplog.at_level(logging.INFO):
        watch([tmp_path / "0", other], lambda: pages.append(len(slept)))
    assert len(slept) == 3
    assert min(slept) >= watching.EVERY_S
    assert pages[0] == 0
    assert caplog.messages[-1].startswith("2 runs: 2 done")


def test_the_command_ends_as_a_comparison_and_its_page_holds_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "0", ["adapter.dim=2"])
    training(tmp_path / "1", ["adapter.dim=4"])
    file = tmp_path / "page.html"
    seen: list[str] = []

    def interrupt(seconds: float) -> None:
        seen.append(file.read_text())
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", interrupt)
    assert command([str(tmp_path), "--watch", "--html", str(file)]) == 130
    assert '"reloadS":3.0' in seen[0]
    assert '"reloadS":null' in file.read_text()
    capsys.readouterr()
    make_run(tmp_path / "2", ["adapter.dim=8"])
    assert command([str(tmp_path / "0"), str(tmp_path / "2"), "--watch"]) == 0
    assert "has the lowest loss of 2 runs" in capsys.readouterr().out


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end_s, "it did not come about"
        time.sleep(0.05)


def test_the_page_loads_itself_anew_and_comes_back_as_it_was_left(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page(sweep(3), reload_s=0.3), encoding="utf-8")
    browser.get(path.as_uri())
    assert one(browser, "#reloading").text.startswith("Runs still train")
    browser.execute_script(  # both between two loads
        "for (const one of ['#theme', 'tbody tr:nth-child(2) input[name=run]']) document.querySelector(one).click()"
    )
    path.write_text(page(sweep(4)), encoding="utf-8")  # as the last one is: it holds still
    until(lambda: len(texts(browser, "table.runs tbody:not(.systems) tr")) == 4)
    assert browser.find_elements("css selector", "#reloading") == []
    path.write_text(page(sweep(3), reload_s=0.3), encoding="utf-8")
    browser.refresh()
    assert one(browser, "#theme").text == "Colors: light"
    assert not one(browser, "tbody tr:nth-child(2) input[name=run]").is_selected()
    browser.execute_script("window.before = true")
    until(lambda: browser.execute_script("return window.before === undefined"))
    browser.execute_script("document.querySelector('#reloading button').click(); window.before = true")
    time.sleep(1)
    assert browser.execute_script("return window.before"), "it is held"
