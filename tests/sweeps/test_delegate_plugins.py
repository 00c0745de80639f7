"""Groups handed to real plugins, where they are installed, and a sweeper that optimizes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from small_runs import TINY, Command

from summarizer.runs.record import read_summary
from summarizer.sweeps.record import collect, read_sweep

SMALL = (
    *TINY,
    "trainer.max_steps=2",
    "evaluation.base=false",
    "evaluation.rows_during_training=0",
    "evaluation.rows=1",
)


def needs(plugin: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(f"hydra_plugins.{plugin}")
    package = plugin.replace("_", "-")
    return pytest.mark.skipif(not found, reason=f"{package} is not installed: pip install {package}")


NEEDS_RAY = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install ray"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "options"),
    [
        pytest.param("joblib", "{n_jobs: 1}", marks=[needs("hydra_joblib_launcher"), pytest.mark.versions]),
        pytest.param("submitit_local", "{timeout_min: 10}", marks=needs("hydra_submitit_launcher")),
        pytest.param("ray", "{cpus: 0.5}", marks=NEEDS_RAY),
    ],
)
def test_groups_train_in_jobs_of_another_launcher(
    tmp_path: Path, command: Command, launcher: str, options: str
) -> None:
    ended = command(
        [
            "-m",
            *SMALL,
            "adapter.dim=2,4",
            "quantization=int8,nf4",
            "hydra.sweep.dir=sweep",
            f"hydra.launcher.delegate={launcher}",
            f"hydra.launcher.options={options}",
        ]
    )
    assert ended.returncode == 0, ended.stderr
    runs = read_sweep(tmp_path / "sweep").runs
    assert [read_summary(tmp_path / "sweep" / run.folder).status for run in runs] == ["completed"] * 4
    assert [run.group for run in runs] == [0, 1, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        "basic",
        pytest.param("joblib", marks=needs("hydra_joblib_launcher")),
        pytest.param("submitit_local", marks=needs("hydra_submitit_launcher")),
        pytest.param("ray", marks=NEEDS_RAY),
    ],
)
def test_another_launcher_in_its_place_runs_each_combination(
    tmp_path: Path, command: Command, launcher: str
) -> None:
    ended = command(["-m", *SMALL, "adapter.dim=2,4", "hydra.sweep.dir=sweep", f"hydra/launcher={launcher}"])
    assert ended.returncode == 0, ended.stderr
    assert [read_summary(tmp_path / "sweep" / run).status for run in "01"] == ["completed"] * 2


@pytest.mark.versions
@pytest.mark.slow
@needs("hydra_optuna_sweeper")
def test_an_optimizer_gets_each_runs_value(tmp_path: Path, command: Command) -> None:
    ended = command(
        [
            "-m",
            *SMALL,
            "hydra/sweeper=optuna",
            "hydra.sweeper.n_trials=4",
            "hydra.sweeper.n_jobs=2",
            "optimizer.lr=choice(1e-3,1e-2)",
            "adapter.dim=choice(2,4)",
            "hydra.sweep.dir=sweep",
        ]
    )
    assert ended.returncode == 0, ended.stderr
    found = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
    losses = [run.best.value for run in collect(tmp_path / "sweep").runs if run.best is not None]
    assert len(losses) == 4
    assert found.best_value == pytest.approx(min(losses))
