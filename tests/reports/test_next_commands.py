"""What the report proposes must be a command that the next person can paste."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from summarizer.config import paths
from summarizer.config.check import check
from summarizer.config.paths import conf_folder
from summarizer.config.schema import RunConfig
from summarizer.console.amounts import rate_text
from summarizer.reports.run_report import next_commands


@pytest.fixture(autouse=True)
def active_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell has it where `python` is the one that runs this."""
    monkeypatch.setattr(sys, "executable", "/environment/bin/python")
    monkeypatch.setattr(paths.shutil, "which", lambda name: "/environment/bin/python")


def spec_of(*overrides: str) -> RunConfig:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return check(compose("config", overrides=list(overrides)))


def commands(*overrides: str) -> list[str]:
    return [command for _, command in next_commands(spec_of(*overrides), overrides, Path("outputs/a b"))]


def test_of_the_default_run() -> None:
    summarize, sweep = commands()
    assert summarize == "python -m summarizer.summarize 'outputs/a b' article.txt"
    assert sweep == "python -m summarizer.run -m adapter.dim=2,8 optimizer.lr=1e-4,1e-3"


def test_where_the_environment_is_not_active_its_python_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my env" / "bin" / "python"))
    summarize, sweep = commands()
    assert summarize.startswith("'my env/bin/python' -m summarizer.summarize ")
    assert shlex.split(sweep)[:3] == ["my env/bin/python", "-m", "summarizer.run"]
    monkeypatch.setattr(paths.shutil, "which", lambda name: None)
    assert commands()[0] == summarize


def test_a_sweep_keeps_what_the_run_was_given_but_for_what_it_sweeps() -> None:
    template = "prompt.template='{article} in short:'"
    given = ("adapter.dim=3", "optimizer=adamw", "hydra.run.dir=/tmp/x", "tracking.name=mine", template)
    sweep = shlex.split(commands(*given, "prompt.completion_token=null")[1])
    assert sweep[:4] == ["python", "-m", "summarizer.run", "-m"]
    assert sweep[4:] == [
        "optimizer=adamw",
        template,
        "prompt.completion_token=null",
        "adapter.dim=3,12",
        "optimizer.lr=1e-4,1e-3",
    ]
    for dim, rate in (("3", "1e-4"), ("12", "1e-3")):
        swept = spec_of(*sweep[4:7], f"adapter.dim={dim}", f"optimizer.lr={rate}")
        assert (swept.adapter.dim, swept.optimizer.lr) == (int(dim), float(rate))


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (1e-3, "1e-3"),
        (1e-4, "1e-4"),
        (3e-05, "3e-5"),
        (2.5e-4, "2.5e-4"),
        (1e-10, "1e-10"),
        (0.02, "0.02"),
        (2, "2"),
    ],
)
def test_rates(rate: float, text: str) -> None:
    assert rate_text(rate) == text
    assert float(text) == rate
