"""Killed anywhere, a run resumed goes on as if nothing had happened: same losses and adapter, to the last bit."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_runs import KILL_IN, TINY, Command

from summarizer.runs.record import read_summary
from summarizer.tracking.metrics import read_metrics

ARGUMENTS = (
    *TINY,
    "trainer.epochs=2",
    "trainer.evaluate_every_steps=3",
    "trainer.checkpoint_every_steps=2",
    "adapter.dropout=0.1",
    "optimizer.lr=1e-3",
    "evaluation.rows=2",
    "evaluation.base=false",
)


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("through") / "run"
    run = [sys.executable, "-m", "summarizer.run", *ARGUMENTS, f"hydra.run.dir={folder}"]
    subprocess.run(run, check=True, capture_output=True, cwd=folder.parent)
    return folder


def kept(folder: Path) -> list[dict[str, Any]]:
    """What must be equal, of each record: not the times."""
    timed = ("train/tokens_per_s", "train/mfu", "train/memory_bytes")
    return [
        {key: value for key, value in row.items() if key not in timed}
        for row in read_metrics(folder / "metrics.jsonl")
    ]


def assert_same(folder: Path, through: Path) -> None:
    assert kept(folder) == kept(through)
    assert len(kept(folder)) == 8 + 3  # eight steps; evaluations at 3, 6 and 8
    for file in ("adapter/adapter_model.safetensors", "predictions/validation.jsonl"):
        assert (folder / file).read_bytes() == (through / file).read_bytes(), file
    now, then = read_summary(folder), read_summary(through)
    assert (now.status, now.steps, now.tokens, now.best_step) == (
        then.status,
        then.steps,
        then.tokens,
        then.best_step,
    )
    assert now.train_loss == then.train_loss
    assert not list((folder / "checkpoints").glob(".writing-*"))


def kill_at_step(folder: Path, step: int, number: int) -> int:
    """Start a run, send it a signal when it has logged the step, and return its exit code."""
    run = [sys.executable, "-m", "summarizer.run", *ARGUMENTS, f"hydra.run.dir={folder}"]
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder.parent)
    metrics = folder / "metrics.jsonl"
    deadline_s = time.monotonic() + 120
    while not (metrics.exists() and f'"step": {step},' in metrics.read_text()):
        assert process.poll() is None, "the run ended before the signal"
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    process.send_signal(number)
    return process.wait(timeout=60)


@pytest.mark.slow
def test_killed_while_it_writes_a_checkpoint(tmp_path: Path, through: Path, command: Command) -> None:
    folder = tmp_path / "run"
    # The third checkpoint, when its tensors are written and its JSON is not.
    script = KILL_IN.format(function="save_state", call=3)
    run = [sys.executable, "-c", script, *ARGUMENTS, f"hydra.run.dir={folder}"]
    assert subprocess.run(run, cwd=tmp_path, capture_output=True).returncode == -signal.SIGKILL
    left = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert left[1:] == ["step-00000002", "step-00000004"]
    assert left[0].startswith(".writing-")

    resumed = command([f"resume={folder}"])
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from step-00000004" in resumed.stderr
    assert_same(folder, through)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 3, 5, 7])
def test_killed_in_the_middle(step: int, tmp_path: Path, through: Path, command: Command) -> None:
    folder = tmp_path / "run"
    assert kill_at_step(folder, step, signal.SIGKILL) == -signal.SIGKILL
    resumed = command([f"resume={folder}"])
    assert resumed.returncode == 0, resumed.stderr
    assert_same(folder, through)


@pytest.mark.slow
def test_killed_twice_in_the_final_write(tmp_path: Path, through: Path, command: Command) -> None:
    """In the last checkpoint, then in the first one after resuming."""
    folder = tmp_path / "run"
    for arguments, call in (([*ARGUMENTS, f"hydra.run.dir={folder}"], 4), ([f"resume={folder}"], 1)):
        run = [sys.executable, "-c", KILL_IN.format(function="save_state", call=call), *arguments]
        assert subprocess.run(run, cwd=tmp_path, capture_output=True).returncode == -signal.SIGKILL
    assert command([f"resume={folder}"]).returncode == 0
    assert_same(folder, through)


@pytest.mark.slow
def test_a_signal_saves_and_stops_and_resume_goes_on(tmp_path: Path, through: Path, command: Command) -> None:
    folder = tmp_path / "run"
    assert kill_at_step(folder, 3, signal.SIGTERM) == 128 + signal.SIGTERM
    summary = read_summary(folder)
    assert (summary.status, summary.ended_by) == ("stopped", "signal")
    assert summary.steps is not None
    assert (folder / "checkpoints" / f"step-{summary.steps:08d}").is_dir()
    assert f"saved as step-{summary.steps:08d}; resume with resume=" in (folder / "run.log").read_text()
    resumed = command([f"resume={folder}"])
    assert resumed.returncode == 0, resumed.stderr
    assert_same(folder, through)

    again = command([f"resume={folder}"])
    assert again.returncode == 0
    assert "complete" in again.stderr


def test_what_cannot_be_resumed_says_so(tmp_path: Path, command: Command) -> None:
    cases = {
        ("resume=nowhere",): "no such folder",
        (f"resume={tmp_path}",): "no run folder",
        (f"resume={tmp_path}", "adapter.dim=4"): "leave out adapter.dim=4",
        (f"resume={tmp_path}", "resume=another"): "leave out resume=another",
    }
    for arguments, words in cases.items():
        ended = command(arguments)
        assert ended.returncode == 2, ended.stderr
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_second_process_is_kept_out(tmp_path: Path, trained_run: Path, command: Command) -> None:
    """The folder of a run that goes on is refused, and the run that goes on is not disturbed."""
    from summarizer.runs.folder import claimed

    # As a run that was killed leaves it: no summary.
    folder = tmp_path / "run"
    shutil.copytree(trained_run, folder)
    (folder / "summary.json").unlink()
    before = (folder / "metrics.jsonl").read_bytes()
    with claimed(folder):
        ended = command([f"resume={folder}"])
    assert ended.returncode == 2
    assert "another process" in ended.stderr
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert not (folder / "summary.json").exists()
