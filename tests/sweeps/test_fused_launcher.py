"""What sweepers and the command hear of runs that failed or were stopped, and where the lines of a log go."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from fused_sweeps import Sweeps, count_up
from hydra.core.utils import JobStatus
from small_runs import REPOSITORY

from summarizer.config.schema import TrackingConfig
from summarizer.errors import ConfigError, NonFiniteLossError, StopRequested
from summarizer.runs.logs import RunLog
from summarizer.runs.record import RunRecord
from summarizer.runs.session import Session

log = logging.getLogger("summarizer.training.trainer")

TRACKING = TrackingConfig(
    mode="disabled", project="p", entity=None, name=None, group=None, tags=[], log_adapter=False
)


@pytest.fixture
def sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweeps:
    return Sweeps.stood_in(tmp_path, monkeypatch)


def first_diverges(jobs: Sequence[RunRecord]) -> list[RunRecord]:
    error = NonFiniteLossError("the loss of step 3 is nan")
    return [RunRecord(folder=jobs[0].folder, cause=error), *count_up(jobs[1:])]


def test_a_failing_run_is_kept_for_the_end(sweeps: Sweeps, capfd: pytest.CaptureFixture[str]) -> None:
    sweeps.train = first_diverges
    sweeps.run("quantization=int8,nf4", "seed=0,1")
    assert [Path(run.folder).name for run in sweeps.kept] == ["0", "1", "2", "3"]
    assert [run.cause is not None for run in sweeps.kept] == [True, False, True, False]
    assert [result.return_value for result in sweeps.returns] == [None, 1.0, None, 3.0]
    err = capfd.readouterr().err
    assert err.count("the loss of step 3 is nan") == 2
    assert "Traceback" not in err
    assert "run sweep/0 failed" in Path("sweep/0/run.log").read_text()
    assert "failed" not in Path("sweep/1/run.log").read_text()


def test_what_ends_a_group_fails_each_of_its_runs_but_no_other_group(
    sweeps: Sweeps, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(jobs: Sequence[RunRecord]) -> list[RunRecord]:
        if jobs[0].config["quantization"]["format"] == "int8":
            raise ConfigError.single("data.train", "row 3 has no article")
        return count_up(jobs)

    sweeps.train = train
    sweeps.run("quantization=int8,nf4", "seed=0,1")
    assert [str(run.cause) for run in sweeps.kept] == ["data.train: row 3 has no article"] * 2 + ["None"] * 2
    assert capfd.readouterr().err.count("row 3 has no article") == 1
    assert sweeps.reports == [Path("sweep").resolve()]


def test_a_full_disk_ends_the_sweep_with_its_reason_alone(
    sweeps: Sweeps, capfd: pytest.CaptureFixture[str]
) -> None:
    """The next group would only load its base to fail as well."""

    def train(jobs: Sequence[RunRecord]) -> list[RunRecord]:
        first, second = (
            RunRecord(
                folder=job.folder, cause=OSError(errno.ENOSPC, "No space left on device", f"{job.folder}/x")
            )
            for job in jobs
        )
        return [first, second.model_copy(update={"logged": True})]

    sweeps.train = train
    with pytest.raises(OSError, match="No space left on device"):
        sweeps.run("quantization=int8,nf4", "seed=0,1")
    assert len(sweeps.groups) == 1
    assert sweeps.reports == [Path("sweep").resolve()]
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert err.count("failed: Cannot write") == 1
    assert "run sweep/0 failed: Cannot write" in err
    assert "resume with resume=sweep" in err


def test_an_optimizing_sweeper_hears_of_the_failure(sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    from summarizer.sweeps.launcher import Launch

    monkeypatch.setattr(Launch, "_optimizing", True)
    sweeps.train = first_diverges
    with pytest.raises(NonFiniteLossError):  # as Hydra's sweeper, which this really is, passes it on
        sweeps.run("seed=0,1")
    assert [result.status for result in sweeps.returns] == [JobStatus.FAILED, JobStatus.COMPLETED]
    assert sweeps.returns[1].return_value == 1.0
    assert not sweeps.kept


def test_ctrl_c_ends_the_sweep_and_the_report_is_still_written(sweeps: Sweeps) -> None:
    def train(jobs: Sequence[RunRecord]) -> list[RunRecord]:
        raise StopRequested(2)

    sweeps.train = train
    with pytest.raises(StopRequested):
        sweeps.run("quantization=int8,nf4", "tracking.project=mine")
    assert len(sweeps.groups) == 1
    assert not sweeps.confirmed
    assert sweeps.reports == [Path("sweep").resolve()]
    assert [tracking.project for tracking in sweeps.tracked] == ["mine"]


def test_a_report_that_fails_does_not_hide_what_ended_the_sweep(
    sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    def stopped() -> None:
        with Session(sweeps={Path("sweep"): TRACKING}).reporting():
            raise StopRequested(2)

    monkeypatch.setattr(sys.modules["summarizer.reports.sweep_report"], "report_sweep", full)
    with pytest.raises(StopRequested):
        stopped()
    assert "the sweep's report could not be written: no space left on device" in caplog.text
    with (
        pytest.raises(OSError, match="no space left"),
        Session(sweeps={Path("sweep"): TRACKING}).reporting(),
    ):
        pass


def test_each_sweep_is_reported_once_at_the_end_of_its_block(sweeps: Sweeps) -> None:
    session = Session()
    with session.reporting():
        for _ in range(2):  # batches of one sweeper
            session.sweeps[Path("sweep")] = TRACKING
        assert not sweeps.reports
    assert sweeps.confirmed == sweeps.reports == [Path("sweep")]
    assert sweeps.tracked == [TRACKING]


def test_a_plan_leaves_no_report(sweeps: Sweeps) -> None:
    sweeps.run("seed=0,1", "plan=true")
    assert len(sweeps.groups) == 1
    assert not sweeps.reports
    assert not list(Path().iterdir())
    Path("sweep").mkdir()
    Path("sweep", "mine.txt").touch()
    sweeps.run("seed=0,1", "plan=true")
    assert [path.name for path in Path("sweep").iterdir()] == ["mine.txt"]


def test_environment_of_a_job_and_what_it_keeps_apart(sweeps: Sweeps) -> None:
    seen = []

    def train(jobs: Sequence[RunRecord]) -> list[RunRecord]:
        seen.append((os.environ.get("MINE"), len(jobs)))
        return count_up(jobs)

    sweeps.train = train
    sweeps.run("seed=0,1,2", "+hydra.job.env_set.MINE=v${seed}")
    sweeps.run("seed=0,1", "hydra.sweep.dir=other")
    assert seen == [("v0", 1), ("v1", 1), ("v2", 1), (None, 2)]


def test_lines_of_a_run_go_to_its_log_and_others_to_all(
    sweeps: Sweeps, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(jobs: Sequence[RunRecord]) -> list[RunRecord]:
        log.info("the base is loaded")
        for job in jobs:
            log.info("evaluated dim %d", job.config["adapter"]["dim"], extra={"run": job.folder})
        return count_up(jobs)

    before = list(logging.getLogger().handlers)
    sweeps.train = train
    sweeps.run("adapter.dim=2,4", "quantization=int8,nf4")
    err = capfd.readouterr().err
    for number, dim in enumerate((2, 2, 4, 4)):
        text = Path("sweep", str(number), "run.log").read_text()
        assert text.count("INFO summarizer.training.trainer: the base is loaded") == 1
        assert text.count(f"evaluated dim {dim}") == 1
        assert text.count("evaluated") == 1
        assert err.count(f"evaluated dim {dim}\n") == 2
    assert err.count("the base is loaded\n") == 2
    after = logging.getLogger().handlers
    assert not [handler for handler in after if isinstance(handler, RunLog)]
    assert len(after) == 1 or after == before


def test_hydra_finds_the_launcher_without_importing_what_is_heavy() -> None:
    script = (
        "import sys, hydra_plugins.summarizer_fused.launcher as found\n"
        "heavy = {'torch', 'transformers', 'datasets', 'wandb', 'pydantic', 'summarizer'} & sys.modules.keys()\n"
        "print(found.FusedLauncher.__name__, sorted(heavy))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    assert ended.stdout.strip() == "FusedLauncher []", ended.stderr
