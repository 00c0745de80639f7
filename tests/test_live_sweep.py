"""A sweep that is acted on while it trains: what a stop and a clone come to, alone, together and after SIGKILL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import TINY, run_here

from summarizer.reports.watching import look
from summarizer.runs.record import read_summary
from summarizer.runs.requests import read_requests
from summarizer.sweeps.record import read_sweep
from summarizer.tracking.metrics import read_metrics

FEW = (
    *(setting for setting in TINY if not setting.startswith("evaluation.rows_during")),
    "evaluation.rows_during_training=0",
    "adapter.dropout=0.1",
    "evaluation.rows=2",
    "evaluation.base=false",
    "trainer.checkpoint_every_steps=4",
    "trainer.evaluate_every_steps=5",
)
ADAPTER = "adapter/adapter_model.safetensors"
ASKING = """
import os, signal, sys
from pathlib import Path
from summarizer.runs.callbacks import RunCallbacks
from summarizer.sweeps.control import request

real = RunCallbacks.stepped

def asking(self, losses, tokens_per_s):
    real(self, losses, tokens_per_s)
    step = max(trial.state.step for trial in losses)
    if step == 3 and not Path("sweep/requests.jsonl").exists():
        request(Path("sweep"), ["stop", "1"])
        request(Path("sweep"), ["clone", "0", "optimizer.lr=5e-4"])
    if step == {kill_at}:
        os.kill(os.getpid(), signal.SIGKILL)

RunCallbacks.stepped = asking
from summarizer.run import main
main()
"""
SWEEP = ("-m", *FEW, "optimizer.lr=1e-3,2e-3", "trainer.max_steps=8", "hydra.sweep.dir=sweep")


def ask(folder: Path, kill_at: int, *arguments: str) -> int:
    script = ASKING.format(kill_at=kill_at)
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=folder, capture_output=True
    ).returncode


def adapters(sweep: Path) -> dict[str, bytes]:
    return {run: (sweep / run / ADAPTER).read_bytes() for run in "012"}


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nothing killed, one of whose runs was stopped at step 3 and the other cloned."""
    folder = tmp_path_factory.mktemp("through")
    assert ask(folder, 0, *SWEEP) == 0
    return folder / "sweep"


@pytest.mark.slow
def test_a_stop_and_a_clone_are_what_runs_alone_are(
    through: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = adapters(through)
    run_here([*FEW, "optimizer.lr=1e-3", "trainer.max_steps=8", "hydra.run.dir=whole"])
    assert found["0"] == (Path("whole") / ADAPTER).read_bytes()
    run_here([*FEW, "optimizer.lr=2e-3", "trainer.max_steps=3", "hydra.run.dir=stopped"])
    assert found["1"] == (Path("stopped") / ADAPTER).read_bytes()
    # A run of three steps, whose config somebody then changes by hand before it is resumed.
    run_here([*FEW, "optimizer.lr=1e-3", "trainer.max_steps=3", "hydra.run.dir=cloned"])
    config = Path("cloned/.hydra/config.yaml")
    config.write_text(config.read_text().replace("lr: 0.001", "lr: 0.0005"))
    run_here(["resume=cloned", "trainer.max_steps=8"])
    assert found["2"] == (Path("cloned") / ADAPTER).read_bytes()
    rates = {
        row["step"]: row["train/lr"]
        for row in read_metrics(through / "2" / "metrics.jsonl")
        if "train/lr" in row
    }
    assert rates == {step: 1e-3 if step <= 3 else 5e-4 for step in range(1, 9)}

    stopped, cloned = read_summary(through / "1"), read_summary(through / "2")
    assert (stopped.status, stopped.ended_by, stopped.steps) == ("stopped", "request", 3)
    assert (cloned.status, cloned.ended_by, cloned.steps) == ("completed", "max_steps", 8)
    assert "optimizer.lr=5e-4" in cloned.overrides
    runs = read_sweep(through).runs
    assert [(run.folder, run.status, run.group) for run in runs] == [
        ("0", "completed", 0),
        ("1", "stopped", 0),
        ("2", "completed", 0),
    ]
    assert {line.state for line in look([through]).lines} == {"done", "stopped"}
    said = (through / "sweep.md").read_text()
    assert "Run 1 was stopped at step 3, on request." in said
    assert "Run 2 is a clone: up to step 3 it is run 0, and from there on it has optimizer.lr=5e-4." in said
    requests = read_requests(through)
    assert not requests.pending
    assert [outcome.step for outcome in requests.outcomes.values()] == [3, 3]


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [4, 6])
def test_killed_after_a_stop_and_a_clone(kill_at: int, through: Path, tmp_path: Path) -> None:
    """Before the next checkpoint, hence resumed from the start where there is none, and after it."""
    assert ask(tmp_path, kill_at, *SWEEP) == -signal.SIGKILL
    assert ask(tmp_path, 0, "resume=sweep") == 0
    assert adapters(tmp_path / "sweep") == adapters(through)
    assert read_summary(tmp_path / "sweep" / "1").ended_by == "request"


@pytest.mark.slow
def test_killed_before_the_stop_has_ended_its_run(through: Path, tmp_path: Path) -> None:
    """What is written down is the step: the run is trained to it again, and the clone is not made twice."""
    sweep = tmp_path / "sweep"
    assert ask(tmp_path, 4, *SWEEP) == -signal.SIGKILL
    (sweep / "1" / "summary.json").unlink()
    shutil.rmtree(sweep / "1" / "checkpoints")
    lines = (sweep / "requests.jsonl").read_text().splitlines(keepends=True)
    assert '"done":2' in lines[-1]
    (sweep / "requests.jsonl").write_text("".join(lines[:-1]))
    os.sync()
    assert ask(tmp_path, 0, "resume=sweep") == 0
    assert adapters(sweep) == adapters(through)
    assert not (sweep / "3").exists()
