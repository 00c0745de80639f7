"""`-m`: each combination in a folder and a wandb run of its own; a failing one does not stop the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from small_runs import TINY, Command

from summarizer.tracking.summary import read_summary

SMALL = (
    *TINY,
    "trainer.max_steps=2",
    "evaluation.base=false",
    "evaluation.rows_during_training=0",
    "evaluation.rows=1",
)


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


def test_a_sweep_of_mistakes_is_a_mistake(tmp_path: Path, command: Command) -> None:
    ended = command(["-m", *SMALL, "adapter.dim=0,-1", "hydra.sweep.dir=sweep"])
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("adapter.dim") >= 2
    assert "Traceback" not in ended.stderr
