"""`-m` as a person types it: a run that fails, a kill at any moment, several processes, beside the runs alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from small_runs import KILL_IN, TINY, Command

from summarizer.runs.record import read_summary
from summarizer.sweeps.record import SweepRecord, read_sweep
from summarizer.tracking.metrics import read_metrics

SMALL = (
    *TINY,
    "trainer.max_steps=2",
    "evaluation.base=false",
    "evaluation.rows_during_training=0",
    "evaluation.rows=1",
)
GRID = (
    "-m",
    *TINY,
    "trainer.epochs=2",
    "trainer.evaluate_every_steps=3",
    "trainer.checkpoint_every_steps=2",
    "evaluation.rows=2",
    "adapter.dim=2,4",
    "optimizer.lr=1e-3,3e-3",
    "sweep.max_concurrent_trials=3",
)
"""Three of the four runs begin, the last takes the place of one that is done."""


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sweep that nothing interrupts."""
    folder = tmp_path_factory.mktemp("through") / "sweep"
    run = [sys.executable, "-m", "summarizer.run", *GRID, f"hydra.sweep.dir={folder}"]
    subprocess.run(run, check=True, capture_output=True, cwd=folder.parent)
    return folder


def assert_same(folder: Path, through: Path) -> None:
    ours, expected = read_sweep(folder), read_sweep(through)
    assert len(ours.runs) == 4
    for run, theirs in zip(ours.runs, expected.runs, strict=True):
        assert run.status == theirs.status == "completed"
        assert set(run.overrides) >= set(theirs.overrides)
        losses, expected_losses = (
            [
                row.get("train/loss") or row["val/loss"]
                for row in read_metrics(of / run.folder / "metrics.jsonl")
            ]
            for of in (folder, through)
        )
        assert losses == pytest.approx(expected_losses, rel=1e-4)
        assert len(losses) == 1 + 8 + 3
        assert (folder / run.folder / "predictions" / "validation.jsonl").read_bytes() == (
            through / run.folder / "predictions" / "validation.jsonl"
        ).read_bytes()
    assert best(ours) == pytest.approx(best(expected), rel=1e-4)


def best(record: SweepRecord) -> list[float]:
    return [run.best.value for run in record.runs if run.best]


@pytest.mark.slow
@pytest.mark.parametrize("call", [5, 10])
def test_killed_while_it_writes_a_checkpoint(
    call: int, tmp_path: Path, through: Path, command: Command
) -> None:
    """The trials that were saved before it are a step ahead of the others from then on."""
    folder = tmp_path / "sweep"
    script = KILL_IN.format(function="save_state", call=call)
    run = [sys.executable, "-c", script, *GRID, f"hydra.sweep.dir={folder}"]
    assert subprocess.run(run, cwd=tmp_path, capture_output=True).returncode == -signal.SIGKILL
    resumed = command([f"resume={folder}"])
    assert resumed.returncode == 0, resumed.stderr
    assert_same(folder, through)
    again = command([f"resume={folder}"])
    assert again.returncode == 0, again.stderr
    assert "nothing to resume" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_stopped_while_the_last_run_waits(
    number: signal.Signals, tmp_path: Path, through: Path, command: Command
) -> None:
    folder = tmp_path / "sweep"
    run = [sys.executable, "-m", "summarizer.run", *GRID, f"hydra.sweep.dir={folder}"]
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    metrics, deadline_s = folder / "2" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and '"step": 4,' in metrics.read_text()):
        assert process.poll() is None, "the sweep ended before the signal"
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=60) == (-number if number == signal.SIGKILL else 128 + number)
    assert not (folder / "3" / "metrics.jsonl").exists()
    assert len(json.loads((folder / "sweep.json").read_text())["runs"]) == 4
    if number == signal.SIGINT:
        assert [run.status for run in read_sweep(folder).runs] == [*["stopped"] * 3, "waiting"]
    assert command([f"resume={folder}"]).returncode == 0
    assert_same(folder, through)


@pytest.mark.slow
def test_two_processes_share_a_group(tmp_path: Path, through: Path, command: Command) -> None:
    ended = command([*GRID, "trainer.processes=2", "hydra.sweep.dir=sweep"])
    assert ended.returncode == 0, ended.stderr
    assert_same(tmp_path / "sweep", through)
    logs = [(tmp_path / "sweep" / name / "run.log").read_text() for name in "0123"]
    assert all("2 processes" in log for log in logs)
    assert ["adapter.dim=2 optimizer.lr=0.001: step 3:" in log for log in logs] == [True, False, False, False]


@pytest.mark.slow
def test_a_failing_run_does_not_stop_the_rest(tmp_path: Path, command: Command) -> None:
    ended = command(["-m", *SMALL, "adapter.dim=2,4", "optimizer.lr=1e30,1e-4", "hydra.sweep.dir=sweep"])
    assert ended.returncode == 1, ended.stderr
    found = {}
    for folder in sorted((tmp_path / "sweep").iterdir()):
        if folder.is_dir():
            config = OmegaConf.load(folder / ".hydra" / "config.yaml")
            found[config.adapter.dim, config.optimizer.lr] = read_summary(folder).status
    assert found == {(2, 1e30): "failed", (2, 1e-4): "completed", (4, 1e30): "failed", (4, 1e-4): "completed"}
    assert "2 of the sweep's 4 runs failed" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_one_by_one_still_works(tmp_path: Path, command: Command) -> None:
    ended = command(["-m", *SMALL, "adapter.dim=2,4", "hydra/launcher=basic", "hydra.sweep.dir=sweep"])
    assert ended.returncode == 0, ended.stderr
    assert [read_summary(tmp_path / "sweep" / name).status for name in "01"] == ["completed"] * 2
    assert not (tmp_path / "sweep" / "sweep.json").exists()


def test_a_sweep_of_mistakes_is_a_mistake(tmp_path: Path, command: Command) -> None:
    ended = command(["-m", *SMALL, "adapter.dim=0,-1,2", "hydra.sweep.dir=sweep"])
    assert ended.returncode == 2, ended.stderr
    first, count, *_ = ended.stderr.splitlines()
    assert first == "sweep over adapter.dim=0,-1,2: checking each combination"
    assert count == "2 mistakes:"
    assert ended.stderr.count("adapter.dim") >= 2
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "sweep").exists()


def test_an_override_may_stand_before_the_flag(tmp_path: Path, command: Command) -> None:
    ended = command([*SMALL, "adapter.dim=0,2", "-m", "hydra.sweep.dir=sweep"])
    assert ended.returncode == 2
    assert (
        "adapter.dim: 0 is not a number of at least 1 (in 1 of 2 combinations: adapter.dim=0)" in ended.stderr
    )
