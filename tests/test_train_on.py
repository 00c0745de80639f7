"""A run resumed with later limits is the run that those limits make from the start, to the last bit."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small_runs import KILL_IN, TINY, Command, run_here

import summarizer.run
from summarizer.runs.record import read_summary
from summarizer.tracking.metrics import read_metrics

ARGUMENTS = (
    *TINY,
    "adapter.dropout=0.1",
    "optimizer.lr=1e-3",
    "evaluation.rows=2",
    "evaluation.base=false",
    "trainer.evaluate_every_steps=3",
    "trainer.schedule.warmup_steps=2",
    "trainer.log_every_steps=2",
)
SHORT, LONG = "trainer.epochs=1", "trainer.epochs=2"
"""4 and 8 steps; the first ends between two evaluations and has one there, which the second has not."""


def train(folder: Path, *more: str) -> Path:
    run_here([*ARGUMENTS, *more, f"hydra.run.dir={folder}"])
    return folder


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is complete. Not to be changed."""
    return train(tmp_path_factory.mktemp("short") / "run", SHORT)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was asked for from the start."""
    return train(tmp_path_factory.mktemp("long") / "run", LONG)


@pytest.fixture
def copy(short: Path, tmp_path: Path) -> Path:
    return shutil.copytree(short, tmp_path / "run")


def rows(folder: Path) -> list[dict[str, Any]]:
    timed = ("train/tokens_per_s", "train/mfu", "train/memory_bytes")
    return [
        {key: value for key, value in row.items() if key not in timed}
        for row in read_metrics(folder / "metrics.jsonl")
    ]


def assert_same(folder: Path, long: Path) -> None:
    assert rows(folder) == rows(long)
    for file in ("adapter/adapter_model.safetensors", "predictions/validation.jsonl"):
        assert (folder / file).read_bytes() == (long / file).read_bytes(), file
    now, then = read_summary(folder), read_summary(long)
    assert now.overrides[-1] == LONG
    assert set(now.overrides) == set(then.overrides)
    for name in ("status", "ended_by", "steps", "epochs", "tokens", "best_step", "train_loss", "val_loss"):
        assert getattr(now, name) == getattr(then, name), name


def refusal(arguments: Sequence[str], capfd: pytest.CaptureFixture[str]) -> str:
    """What the command says of one mistake."""
    capfd.readouterr()
    assert summarizer.run.command(list(arguments)) == 2
    first, said = capfd.readouterr().err.strip().splitlines()
    assert first == "1 mistake:"
    return said


@pytest.mark.slow
def test_a_finished_run_goes_on(copy: Path, long: Path) -> None:
    assert rows(copy)[-1]["step"] == 4
    assert "val/loss" in rows(copy)[-1]
    run_here([f"resume={copy}", LONG])
    assert [row["step"] for row in rows(long) if "val/loss" in row] == [3, 6, 8]
    assert_same(copy, long)


def test_what_is_no_limit_or_changes_nothing_is_refused(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    cases = {
        (
            LONG,
            "optimizer.lr=1e-2",
        ): "but for trainer.epochs and trainer.max_steps; leave out optimizer.lr=1e-2",
        ("trainer.epochs=2,3",): "leave out trainer.epochs=2,3",
        ("epochs=2",): "leave out epochs=2",
        ("trainer.epochs=x",): "trainer.epochs: 'x' is not a number",
        ("trainer.epochs=0.5",): "has trained for 4 steps, and trainer.epochs=0.5 asks for 2; ask for more",
        (SHORT,): "is complete, at step 4",
        ("trainer.max_steps=4", LONG): "at step 4: trainer.max_steps ends it; add trainer.max_steps=null",
    }
    for overrides, words in cases.items():
        assert words in refusal([f"resume={copy}", *overrides], capfd)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_a_schedule_that_falls_to_the_end_is_refused(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = copy / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("name: constant", "name: cosine"))
    said = refusal([f"resume={copy}", LONG], capfd)
    assert "falls to the end that it was told at its start (trainer.schedule.name=cosine)" in said
    assert f"start a run with {LONG}, or one from its adapter by adapter.start_from=" in said


def test_without_a_checkpoint_it_says_what_to_do(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy / "checkpoints")
    said = refusal([f"resume={copy}", LONG], capfd)
    assert f"has no checkpoint to go on from; start a run with {LONG}, or one from its adapter" in said


def test_an_evaluation_that_only_the_end_had_is_refused_of_earlier_versions(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state = copy / "checkpoints" / "step-00000004" / "reached.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"evaluated_step": 4}))
    assert "has an evaluation that only the end asked for" in refusal([f"resume={copy}", LONG], capfd)


def test_a_run_of_a_sweep_is_copied_first(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (copy.parent / "multirun.yaml").write_text("{}")
    assert "is a run of a sweep" in refusal([f"resume={copy}", LONG], capfd)


def test_what_early_stopping_ended_is_refused(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    summary = copy / "summary.json"
    summary.write_text(summary.read_text().replace('"ended_by": "epochs"', '"ended_by": "early_stopping"'))
    said = refusal([f"resume={copy}", LONG], capfd)
    assert "early stopping ended" in said
    assert "as it would with trainer.epochs=2; start a run" in said


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 2])
def test_a_killed_run_goes_on_to_other_limits(
    call: int, tmp_path: Path, long: Path, command: Command
) -> None:
    """Killed in a checkpoint, with and without one before it, and killed again once it goes on."""
    folder = tmp_path / "run"
    begin = [*ARGUMENTS, SHORT, "trainer.checkpoint_every_steps=2", f"hydra.run.dir={folder}"]
    for arguments in (begin, [f"resume={folder}", LONG]):
        script = KILL_IN.format(function="save_state", call=call)
        killed = subprocess.run([sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True)
        assert killed.returncode == -signal.SIGKILL
    resumed = command([f"resume={folder}"])
    assert resumed.returncode == 0, resumed.stderr
    assert rows(folder) == rows(long)
    file = "adapter/adapter_model.safetensors"
    assert (folder / file).read_bytes() == (long / file).read_bytes()


@pytest.mark.slow
def test_a_mistake_that_shows_late_leaves_the_run_as_it_was(copy: Path, command: Command) -> None:
    """Every checkpoint is damaged, which is found as the run begins: its results are still there."""
    (copy / "checkpoints" / "step-00000004" / "adapter.safetensors").write_bytes(b"")
    before = {path: path.read_bytes() for path in (copy / ".hydra").iterdir()}
    refused = command([f"resume={copy}", LONG])
    assert refused.returncode == 2
    assert "none of the 1 checkpoints" in refused.stderr
    assert {path: path.read_bytes() for path in (copy / ".hydra").iterdir()} == before
    assert read_summary(copy).status == "completed"
