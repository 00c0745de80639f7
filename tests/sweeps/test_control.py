"""What is asked of a sweep while it trains: what is written down, and what is refused with a line."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fused_sweeps import Sweeps
from test_resume_sweep import end

import summarizer.sweep
from summarizer.errors import ConfigError
from summarizer.runs.folder import claimed
from summarizer.runs.requests import Outcome, Request, answer, ask, changed, clone_overrides, read_requests
from summarizer.sweeps.control import request
from summarizer.sweeps.record import read_sweep

SWEEP = Path("sweep")


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweeps]:
    """A sweep of three runs, of which 0 trains and 2 has ended."""
    made = Sweeps.stood_in(tmp_path, monkeypatch)
    made.run("optimizer.lr=1e-4,1e-3,3e-3")
    end(SWEEP / "2", "completed", "epochs")
    with claimed(SWEEP / "0"):
        yield made


def test_requests_are_written_down_in_order(training: Sweeps) -> None:
    assert request(SWEEP, ["stop", "1"]) == "1 is stopped at its next step; its best adapter is kept"
    assert request(SWEEP, ["clone", "0", "optimizer.lr=5e-4"]).startswith("3 begins as 0 is at its next step")
    answer(SWEEP, Outcome(done=1, step=7))
    found = read_requests(SWEEP)
    assert found.asked == [
        Request(id=1, kind="stop", run="1"),
        Request(id=2, kind="clone", run="0", overrides=("optimizer.lr=5e-4",), folder="3"),
    ]
    assert found.pending == found.asked[1:]
    assert found.outcomes == {1: Outcome(done=1, step=7)}
    assert [run.folder for run in read_sweep(SWEEP).runs] == ["0", "1", "2"]  # the clone has not begun


NOT_FOLLOWED: list[tuple[list[str], str]] = [
    ([], "'' is no request"),
    (["halt", "1"], "'halt' is no request; valid names: clone, stop"),
    (["stop"], "stop: names no run"),
    (["stop", "7"], "'7' is no run of sweep; valid names: 0, 1, 2"),
    (["stop", "../0"], "is no run of sweep"),
    (["stop", "2"], "2 has ended: completed"),
    (["stop", "1", "now"], "leave out now"),
    (["clone", "0"], "names no setting for the clone of 0"),
    (["clone", "0", "optimizer.rl=1"], "did you mean optimizer.lr?"),
    (["clone", "0", "adapter.dim=8"], "adapter.dim: a clone takes optimizer.lr, seed"),
    (["clone", "0", "optimizer.lr=1,2"], "optimizer.lr: a clone takes one value each"),
    (["clone", "0", "optimizer.lr=x"], "optimizer.lr: 'x' is not a number"),
    (["clone", "0", "optimizer.lr=0.0001"], "optimizer.lr: is 0.0001 in the run itself"),
    (["clone", "0", "optimizer.lr"], "is not an override"),
]


def test_what_cannot_be_followed_is_one_line(
    training: Sweeps, capfd: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    """14 requests of one sweep, which none of them changes."""
    assert len(NOT_FOLLOWED) == 14
    for words, said in NOT_FOLLOWED:
        with subtests.test(words=words):
            capfd.readouterr()
            if words:
                assert summarizer.sweep.command(["sweep", *words]) == 2
                lines = capfd.readouterr().err.strip().splitlines()
                assert len(lines) == 2
                assert said in lines[1]
            else:
                with pytest.raises(ConfigError, match=said):
                    request(SWEEP, words)
            assert not (SWEEP / "requests.jsonl").exists()


def test_twice_the_same_is_refused_unless_the_first_was(training: Sweeps) -> None:
    request(SWEEP, ["stop", "1"])
    request(SWEEP, ["clone", "0", "seed=1", "optimizer.lr=5e-4"])
    for words in (["stop", "1"], ["clone", "0", "optimizer.lr=5e-4", "seed=1"]):
        with pytest.raises(ConfigError, match="was asked for already"):
            request(SWEEP, words)
    answer(SWEEP, Outcome(done=2, refused="the disk was full"))
    assert request(SWEEP, ["clone", "0", "seed=1", "optimizer.lr=5e-4"]).startswith("4 begins")


def test_a_sweep_that_nobody_trains_or_that_is_none(training: Sweeps, tmp_path: Path) -> None:
    for folder, said in ((tmp_path / "nowhere", "no such folder"), (SWEEP / "0", "is no sweep")):
        with pytest.raises(ConfigError, match=said):
            request(folder, ["stop", "1"])
    other = tmp_path / "other"
    training.run("hydra.sweep.dir=other", "seed=0,1")
    with pytest.raises(ConfigError, match=r"no process of this machine trains .*; resume=.* goes on with it"):
        request(other, ["stop", "1"])
    for run in "01":
        end(other / run, "completed", "epochs")
    with pytest.raises(ConfigError, match=r"all runs of .* have ended"):
        request(other, ["stop", "1"])


def test_the_file_may_come_from_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_bytes(
        b'{"id":1,"kind":"stop","run":"1"}\nnonsense\n{"id":2,"kind":"clone","run":"0","folder":"../x"}\n'
        b'{"id":3,"kind":"stop","run":"2"}\n{"id":1,"kind":"stop","run":"5"}\n{"id":4,"ki'
    )
    assert [(one.id, one.run) for one in read_requests(tmp_path).asked] == [(1, "1"), (3, "2")]
    assert ask(tmp_path, "stop", "9").id == 4
    assert [one.id for one in read_requests(tmp_path).asked] == [1, 3, 4]  # the torn line spoils no other
    file.write_bytes(b" " * (2**20 + 1))
    for act in (lambda: read_requests(tmp_path), lambda: ask(tmp_path, "stop", "9")):
        with pytest.raises(ConfigError, match=r"larger than 1 MB|is full"):
            act()
    file.unlink()
    (tmp_path / "target").write_text("")
    file.symlink_to(tmp_path / "target")
    with pytest.raises(ConfigError, match="it is a link"):
        read_requests(tmp_path)
    with pytest.raises(OSError, match="it is a link"):
        ask(tmp_path, "stop", "9")
    assert (tmp_path / "target").read_text() == ""


def _ask_many(folder: str) -> None:
    for number in range(20):
        ask(Path(folder), "stop", f"{os.getpid()}-{number}")


def test_many_ask_at_once(tmp_path: Path) -> None:
    processes = [
        multiprocessing.get_context("fork").Process(target=_ask_many, args=(str(tmp_path),)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [one.id for one in read_requests(tmp_path).asked] == list(range(1, 81))


def test_a_clone_has_its_sources_overrides_and_its_own() -> None:
    own = clone_overrides(("adapter.dim=4", "optimizer.lr=1e-3", "+seed=1"), ("optimizer.lr=5e-4", "seed=2"))
    assert own == ("adapter.dim=4", "optimizer.lr=5e-4", "seed=2")
    before = {"optimizer": {"lr": 1e-3}, "seed": 0}
    assert changed(before, ["optimizer.lr=5e-4"]) == {"optimizer": {"lr": 5e-4}, "seed": 0}
    assert before["optimizer"]["lr"] == 1e-3
