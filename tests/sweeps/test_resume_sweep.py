"""`resume=SWEEP_FOLDER`: finished runs are kept, all others go on, in the groups that they were in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from fused_sweeps import Sweeps, count_up
from omegaconf import OmegaConf

from summarizer.errors import ConfigError
from summarizer.runs.folder import claimed
from summarizer.runs.record import RunRecord, write_summary
from summarizer.runs.session import Session
from summarizer.sweeps.resume import is_sweep, resume


@pytest.fixture
def sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweeps:
    return Sweeps.stood_in(tmp_path, monkeypatch)


def end(folder: Path, status: str, ended_by: str) -> None:
    known = {"overrides": [], "seed": 0, "model": "m", "quantization": "int8", "versions": {}}
    write_summary(folder, RunRecord.model_validate({**known, "status": status, "ended_by": ended_by}))


def test_only_what_is_unfinished_goes_on(sweeps: Sweeps) -> None:
    """Among finished runs of its group, by which a halving measures it, and which training leaves alone."""
    sweeps.run("quantization=int8,nf4,none", "seed=0,1", "tracking.project=mine")
    sweep = Path("sweep")
    end(sweep / "0", "completed", "epochs")
    end(sweep / "1", "failed", "error")
    end(sweep / "2", "stopped", "signal")
    end(sweep / "4", "completed", "max_steps")
    end(sweep / "5", "stopped", "successive_halving")
    before = {job.path.name: job for job in sweeps.jobs}
    sweeps.groups.clear()
    sweeps.kept.clear()
    sweeps.reports.clear()
    sweeps.tracked.clear()

    def train(jobs: Sequence[RunRecord]) -> list[RunRecord]:
        logging.getLogger("summarizer.training.trainer").info("it goes on")
        return count_up(jobs)

    sweeps.train = train
    sweeps.resume(sweep)
    assert [[job.path.name for job in group] for group in sweeps.groups] == [["0", "1"], ["2", "3"]]
    for job in sweeps.jobs:
        old = before[job.path.name]
        assert job.resumed
        assert (job.config, job.overrides, job.sweep, job.folder) == (
            old.config,
            old.overrides,
            "sweep",
            old.folder,
        )
    told = [run for run in "012345" if "it goes on" in (sweep / run / "run.log").read_text()]
    assert told == ["1", "2", "3"]
    assert [Path(run.folder).name for run in sweeps.kept] == ["0", "1", "2", "3"]
    assert sweeps.reports == [sweep.resolve()]
    assert [tracking.project for tracking in sweeps.tracked] == ["mine"]


def test_losers_of_successive_halving_are_kept(sweeps: Sweeps) -> None:
    sweeps.run("seed=0,1")
    for run in ("0", "1"):
        end(Path("sweep", run), "stopped", "successive_halving")
    sweeps.groups.clear()
    sweeps.resume(Path("sweep"))
    assert sweeps.groups == []


def test_of_a_run_that_is_at_its_end_it_says_which(sweeps: Sweeps, capfd: pytest.CaptureFixture[str]) -> None:
    sweeps.run("seed=0,1")
    end(Path("sweep", "0"), "stopped", "successive_halving")
    end(Path("sweep", "1"), "completed", "epochs")
    capfd.readouterr()
    for run in ("0", "1"):
        resume(Path("sweep", run), [], sweeps.session)
    assert capfd.readouterr().err.splitlines() == [
        "sweep/0 was stopped by successive halving; there is nothing to resume",
        "sweep/1 is complete; there is nothing to resume",
    ]


def test_overrides_beside_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave out seed=1"):
        resume(tmp_path, ["seed=1"], Session())


def test_a_mistaken_folder_begins_nothing(sweeps: Sweeps) -> None:
    sweeps.run("seed=0,1,2")
    sweeps.groups.clear()
    config = Path("sweep", "1", ".hydra", "config.yaml")
    config.write_text(config.read_text().replace("dim: 2", "dim: 0"))
    with pytest.raises(ConfigError, match=r"^adapter.dim: 0 .*\(in 1 of 3 combinations: seed=1\)$"):
        sweeps.resume(Path("sweep"))
    config.unlink()
    with pytest.raises(ConfigError, match="no run folder"):
        sweeps.resume(Path("sweep"))
    assert not sweeps.groups


def test_a_sweep_that_is_running_is_left_alone(sweeps: Sweeps) -> None:
    sweeps.run("seed=0,1")
    sweep = Path("sweep")
    sweeps.groups.clear()
    sweeps.reports.clear()
    with (
        claimed(sweep / "1"),
        pytest.raises(ConfigError, match=r"sweep/1: another process is running in this folder"),
    ):
        sweeps.resume(sweep)
    assert not sweeps.groups
    assert not sweeps.reports


def test_a_sweep_without_its_record(tmp_path: Path) -> None:
    (tmp_path / "multirun.yaml").write_text("{}")
    assert is_sweep(tmp_path)
    with pytest.raises(ConfigError, match="was stopped before its runs were made; start the sweep again"):
        resume(tmp_path, (), Session())
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "config.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=f"one by one, as resume={tmp_path}/0"):
        resume(tmp_path, (), Session())
    assert not is_sweep(tmp_path / "0")


def test_later_batches_are_not_forgotten_in_silence(
    sweeps: Sweeps, capfd: pytest.CaptureFixture[str]
) -> None:
    sweeps.run("seed=0,1", "hydra.sweeper.max_batch_size=1")
    assert OmegaConf.load(Path("sweep", "multirun.yaml")).hydra.sweeper.max_batch_size == 1
    sweeps.resume(Path("sweep"))
    assert "only runs that the sweeper had launched go on" in capfd.readouterr().err
