"""`summarizer NAME` and `python -m summarizer NAME`, as a person types them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from small_runs import REPOSITORY, TINY

import summarizer
from summarizer.__main__ import COMMANDS
from summarizer.runs.record import read_summary
from summarizer.sweeps.record import read_sweep

INSTALLED = (str(Path(sys.executable).parent / "summarizer"),)
AS_MODULE = (sys.executable, "-m", "summarizer")
SHORT = (*TINY, "trainer.max_steps=2", "evaluation.base=false", "evaluation.rows_during_training=0")
HEAVY = {"torch", "hydra", "omegaconf", "pydantic", "transformers", "argparse"}

both = pytest.mark.parametrize("started", [INSTALLED, AS_MODULE], ids=["summarizer", "python -m summarizer"])


def typed(started: tuple[str, ...], *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # `python -m summarizer` is to be found from any folder, as it is where it is installed.
    return subprocess.run(
        [*started, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
    )


@both
def test_help_names_every_command(started: tuple[str, ...], tmp_path: Path) -> None:
    ended = typed(started, "--help", folder=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(COMMANDS)
    assert {"run", "summarize", "evaluate", "export", "sweep", "compare", "serve"} == set(COMMANDS)


def test_help_takes_no_time(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    typed(INSTALLED, "--help", folder=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
    script = f"import sys, summarizer.__main__; print({HEAVY} & set(sys.modules))"
    assert typed((sys.executable,), "-c", script, folder=tmp_path).stdout == "set()\n"


@both
def test_the_version_is_the_distribution_s(started: tuple[str, ...], tmp_path: Path) -> None:
    name = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    assert typed(started, "--version", folder=tmp_path).stdout == f"{name} {summarizer.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sumarise"], "summarizer: 'sumarise' is no command; did you mean 'summarize'?\n"),
        (["exprot", "run"], "summarizer: 'exprot' is no command; did you mean 'export'?\n"),
        (
            ["--quiet"],
            "summarizer: '--quiet' is no command; valid names: compare, evaluate, export, run, serve, "
            "summarize, sweep\n",
        ),
    ],
)
def test_another_name_is_a_mistake_of_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    ended = typed(INSTALLED, *arguments, folder=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", said)


def test_without_a_name_it_says_what_there_is(tmp_path: Path) -> None:
    ended = typed(INSTALLED, folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "summarizer COMMAND" in ended.stderr


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "run"])
def test_usage_calls_each_command_as_it_was_typed(name: str, tmp_path: Path) -> None:
    ended = typed(INSTALLED, name, "--help", folder=tmp_path)
    assert ended.returncode == 0
    assert ended.stdout.startswith(f"usage: summarizer {name} [")
    directly = typed((sys.executable, "-m", f"summarizer.{name}"), "--help", folder=tmp_path)
    assert directly.stdout.startswith(f"usage: python -m summarizer.{name} [")
    ended = typed(INSTALLED, name, "nothing here", "--what", folder=tmp_path)
    assert ended.returncode == 2
    assert "unknown flag --what" in ended.stderr


@pytest.mark.slow
def test_run_is_hydras_command_with_all_its_flags(tmp_path: Path) -> None:
    ended = typed(INSTALLED, "run", "--help", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("summarizer run: train low-rank adapters")
    as_module, directly = (
        typed(started, "--cfg", "job", "adapter.dim=3", folder=tmp_path)
        for started in ((*INSTALLED, "run"), (sys.executable, "-m", "summarizer.run"))
    )
    assert as_module.returncode == 0
    assert "dim: 3" in as_module.stdout
    assert as_module.stdout == directly.stdout
    ended = typed(INSTALLED, "run", "adapter.dmi=3", folder=tmp_path)
    assert ended.returncode == 2
    assert "did you mean 'dim'?" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.versions
def test_a_run_its_summary_and_going_on(tmp_path: Path) -> None:
    ended = typed(INSTALLED, "run", *SHORT, "hydra.run.dir=one", "tracking=wandb", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert read_summary(tmp_path / "one").status == "completed"
    assert (tmp_path / "one" / "wandb").is_dir()
    (tmp_path / "article.txt").write_text("The harbor is closed for three days. Ships are to wait outside.")
    ended = typed(AS_MODULE, "summarize", "one", "article.txt", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()
    ended = typed(AS_MODULE, "run", "resume=one", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "one is complete; there is nothing to resume" in ended.stderr


@pytest.mark.slow
@pytest.mark.versions
def test_a_fused_sweep(tmp_path: Path) -> None:
    ended = typed(AS_MODULE, "run", "adapter.dim=2,4", "-m", *SHORT, "hydra.sweep.dir=sweep", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    runs = read_sweep(tmp_path / "sweep").runs
    assert [(run.status, run.group) for run in runs] == [("completed", 0)] * 2


@pytest.mark.slow
@both
@pytest.mark.parametrize(
    "more",
    [
        ("trainer.processes=2",),
        ("-m", "adapter.dim=2,4", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        ("-m", "adapter.dim=2,4", "hydra.launcher.delegate=submitit_local"),
    ],
    ids=lambda more: more[-1],
)
def test_processes_that_it_starts_find_their_way(
    started: tuple[str, ...], more: tuple[str, ...], tmp_path: Path
) -> None:
    """Spawned processes import the main module again; those of other launchers unpickle what it handed over."""
    ended = typed(
        started, "run", *SHORT, *more, "hydra.run.dir=one", "hydra.sweep.dir=sweep", folder=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    folders = [tmp_path / "sweep" / run for run in "01"] if "-m" in more else [tmp_path / "one"]
    assert [read_summary(folder).status for folder in folders] == ["completed"] * len(folders)


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [*INSTALLED, "compare", "--help"],
        cwd=tmp_path,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(write)
    assert "Traceback" not in ended.stderr
