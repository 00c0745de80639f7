"""`hydra.launcher.delegate`: each group is one job of another launcher."""

from __future__ import annotations

import importlib.util
import pickle
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from fused_sweeps import Sweeps, count_up
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from summarizer.config.overrides import quoted
from summarizer.errors import ConfigError, NonFiniteLossError, StopRequested
from summarizer.runs.folder import claimed
from summarizer.runs.record import RunRecord, read_configured
from summarizer.runs.requests import ask
from summarizer.sweeps.compose import Combination
from summarizer.sweeps.delegate import GroupTask, _portable, _wait_until_free
from summarizer.tracking.metrics import METRICS

SECRET = "hf_abcdefghijklmnopqrstuvwxyz"
DELEGATED = ("hydra.launcher.delegate=basic", "quantization=int8,nf4", "seed=0,1")
"""Hydra's own launcher needs no plugin, and runs its jobs in this process, where the stand-in is."""


@pytest.fixture
def sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweeps:
    return Sweeps.stood_in(tmp_path, monkeypatch)


def test_each_group_is_one_job(sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "it's \\ here")
    name = "'tracking.name=${hydra:job.num} ${oc.env:WHERE}'"
    sweeps.run(*DELEGATED, name.strip("'"))
    delegated = [list(group) for group in sweeps.groups]
    assert [[job.path.name for job in group] for group in delegated] == [["0", "1"], ["2", "3"]]
    assert [result.return_value for result in sweeps.returns] == [0.0, 1.0, 2.0, 3.0]
    assert sorted(path.name for path in Path("sweep", ".groups").iterdir()) == ["0", "2"]
    # What a job is told is what it would have been told in this process.
    sweeps.groups.clear()
    sweeps.run(*DELEGATED[1:], name.strip("'"), "hydra.sweep.dir=here/sweep")
    for one, other in zip(delegated, sweeps.groups, strict=True):
        assert [job.config for job in one] == [job.config for job in other]
        assert [(job.overrides, job.sweep, job.resumed) for job in one] == [
            (job.overrides, job.sweep, job.resumed) for job in other
        ]
    assert delegated[1][1].config["tracking"]["name"] == "3 it's \\ here"


def test_a_job_that_is_started_again_resumes_its_group(
    sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Slurm and Ray start it again on another machine, when the first was lost."""
    starts: list[list[RunRecord]] = []
    real = GroupTask.__call__

    def lost(task: GroupTask, config: DictConfig) -> tuple[list[RunRecord], int | None]:
        with monkeypatch.context() as patch:
            patch.setattr(sweeps, "groups", [])
            real(task, config)
            starts.append(list(sweeps.groups[0]))
            for run in starts[-1]:
                (run.path / METRICS).touch()
        return real(task, config)

    monkeypatch.setattr(GroupTask, "__call__", lost)
    sweeps.run(*DELEGATED)
    assert [[run.resumed for run in group] for group in starts] == [[False, False]] * 2
    assert [[run.resumed for run in group] for group in sweeps.groups] == [[True, True]] * 2
    for first, again in zip(starts, sweeps.groups, strict=True):
        assert [run.model_copy(update={"resumed": False}) for run in again] == first


def test_a_clone_of_a_lost_job_comes_along(sweeps: Sweeps) -> None:
    sweeps.run(*DELEGATED)
    sweep = Path("sweep").resolve()
    asked = ask(sweep, "clone", "1", ["optimizer.lr=5e-3"])
    shutil.copytree(sweep / "1", sweep / str(asked.folder))
    task = GroupTask((), str(sweep))
    groups = [[run.model_copy(update={"resumed": False}) for run in group] for group in sweeps.groups]
    for group in groups:
        (group[0].path / METRICS).touch()
    assert [run.path.name for run in task._begun_before(groups[0])] == ["0", "1", "4"]
    assert [run.path.name for run in task._begun_before(groups[1])] == ["2", "3"]


def test_locks_of_a_lost_machine_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    with ExitStack() as held:
        held.enter_context(claimed(tmp_path))

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 2:
                held.close()

        monkeypatch.setattr("summarizer.sweeps.delegate.time.sleep", sleep)
        _wait_until_free(tmp_path)
    assert slept == [1.0, 1.0]


def test_a_secret_reaches_the_job_by_the_environment(
    sweeps: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was given on the command line is in the environment by then; what a file of conf/ has goes there too."""
    monkeypatch.setenv("SUMMARIZER_SECRET_1", "me:pass")
    written: list[str] = []
    prepare = Combination.prepare

    def watched(one: Combination, *, read_back: bool = False) -> None:
        prepare(one, read_back=read_back)
        written.extend(file.read_text() for file in one.run.path.rglob("*.yaml"))

    monkeypatch.setattr(Combination, "prepare", watched)
    own = tmp_path / "own" / "tracking"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(f"name: {SECRET}\n")
    words = ["tracking.group='of ${oc.env:SUMMARIZER_SECRET_1}'"]
    sweeps.run(*DELEGATED, *words, "tracking=mine", f"hydra.searchpath=[{own.parent}]")
    assert len(sweeps.jobs) == 4
    for job in sweeps.jobs:
        assert job.config["tracking"]["group"] == "of me:pass"
        assert job.config["tracking"]["name"] == SECRET
    assert len(written) == 4 * 3
    assert not [text for text in written if SECRET in text or "me:pass" in text]
    files = list(Path("sweep").rglob("*.yaml"))
    assert len(files) == 4 * 3 + 1
    assert not [file for file in files for text in (SECRET, "me:pass") if text in file.read_text()]
    # A job that is started again reads the same; whoever else opens the folder does not.
    assert "${oc.env:SUMMARIZER_SECRET_1}" in Path("sweep/0/.hydra/config.yaml").read_text()
    assert read_configured(Path("sweep/0")).config["tracking"]["name"] == "***"


def test_failures_cross_over(sweeps: Sweeps) -> None:
    def train(jobs: Sequence[RunRecord]) -> list[RunRecord]:
        return [RunRecord(folder=jobs[0].folder, cause=NonFiniteLossError("nan")), *count_up(jobs[1:])]

    sweeps.train = train
    sweeps.run(*DELEGATED)
    assert [type(run.cause).__name__ for run in sweeps.kept] == ["NonFiniteLossError", "NoneType"] * 2
    assert "run sweep/2 failed: nan" in Path("sweep/2/run.log").read_text()


def test_a_stop_crosses_over(sweeps: Sweeps) -> None:
    def train(jobs: Sequence[RunRecord]) -> list[RunRecord]:
        raise StopRequested(15)

    sweeps.train = train
    with pytest.raises(StopRequested) as caught:
        sweeps.run(*DELEGATED)
    assert caught.value.signal_number == 15
    assert sweeps.reports == [Path("sweep").resolve()]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["hydra.launcher.delegate=rq"],
            "hydra.launcher.delegate: rq is not installed: pip install hydra-rq-launcher",
        ),
        (["hydra.launcher.delegate=foo"], "hydra.launcher.delegate: 'foo' is no launcher; there are basic"),
        (
            ["hydra.launcher.delegate=fused"],
            "hydra.launcher.delegate: fused is the launcher that makes the groups",
        ),
        (
            ["hydra.launcher.delegate=basic", "hydra.launcher.options={n_jobs: 2}"],
            "hydra.launcher.options.n_jobs: unknown key",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    sweeps: Sweeps, arguments: list[str], line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        sweeps.run("seed=0,1", *arguments)
    assert str(caught.value).startswith(line)
    assert not sweeps.groups
    assert not list(Path().iterdir())


@pytest.mark.parametrize("text", ["plain", "it's", "a\\b", "a\\'b", "${x}, {y: [z]}", "trailing\\\\", "\\'"])
def test_quoted_text_is_read_back(text: str) -> None:
    override = OverridesParser.create().parse_override(f"key={quoted(text)}")
    assert override.value() == text


@pytest.mark.parametrize("chosen", ["hydra.launcher.delegate=ray", "hydra/launcher=ray"])
def test_without_ray_there_is_no_such_launcher(
    chosen: str, sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda *name: None if name == ("ray",) else real(*name))
    with pytest.raises(ConfigError, match=r"hydra/launcher: ray is not installed: pip install ray"):
        sweeps.run("seed=0,1", chosen)
    assert not sweeps.groups


def test_an_error_that_cannot_cross_leaves_its_text() -> None:
    class OddError(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    crossed = _portable(OddError(1, 2))
    assert str(pickle.loads(pickle.dumps(crossed))) == "OddError: 1 and 2"
    known = ConfigError.single("a", "b")
    assert _portable(known) is known
    assert _portable(None) is None
