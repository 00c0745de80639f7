"""How a command ends: its exit code and its one message."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from summarizer.config.overrides import without_quoted_keys
from summarizer.errors import ConfigError, Issue, NonFiniteLossError, RunsFailed, StopRequested
from summarizer.run import command
from summarizer.runs.mistakes import mistake_text, report_mistakes


def raising(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError.single("a.b", "is wrong"), 2, "1 mistake:\n  a.b: is wrong\n"),
        (ConfigError([Issue("a", "x"), Issue("", "y")]), 2, "2 mistakes:\n  a: x\n  y\n"),
        (RunsFailed("two failed", 1), 1, "two failed\n"),
        (StopRequested(15), 143, ""),
        (KeyboardInterrupt(), 130, ""),
        (NonFiniteLossError("step 3"), 1, "Training stopped: step 3.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            1,
            "Cannot write /x/y: No space left on device. Nothing that was saved is lost.\n",
        ),
    ],
)
def test_ends(error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_mistakes(raising(error), []) == code
    assert capsys.readouterr().err == said


def test_success_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_mistakes(lambda: None, []) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), RuntimeError("a bug"), OSError(errno.EIO, "broken disk")]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        report_mistakes(raising(error), [])


def test_an_issue_without_a_key_stands_alone() -> None:
    assert mistake_text([Issue("", "all is wrong")]) == "1 mistake:\n  all is wrong"


def test_the_example_of_the_issue(tmp_path: Path) -> None:
    arguments = "+adapter.dmi=4 adapter.dim=eight optimizer.lr=-1 data=files data.train=/nowhere/x.jsonl"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "summarizer.run", *arguments.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "4 mistakes:\n"
        "  adapter.dim: 'eight' is not a whole number of at least 1\n"
        "  adapter.dmi: unknown key; did you mean 'dim'?\n"
        "  optimizer.lr: -1 is not a number above 0\n"
        "  data.train: no such file: /nowhere/x.jsonl\n"
    )
    assert time.monotonic() - started < 60, "seconds, even where other work shares the cores"
    assert not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        (
            "adapter=null",
            "adapter: null is not one of dora, ia3, lora, lora_fa",
        ),  # Hydra says so in a bare ValueError
        ("adapter.dim=${nothing.here}", "adapter.dim: '${nothing.here}' cannot be resolved: "),
        ("adapter.dmi=3", "adapter.dmi: unknown key; did you mean 'dim'?"),
        ("a=[", "'a=[' is not an override such as adapter.dim=2"),
    ],
)
def test_the_command_says_one_thing(
    argument: str,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run", argument])
    assert command([argument]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"1 mistake:\n  {line}")
    assert len(said.splitlines()) == 2


def test_an_output_that_nobody_reads(tmp_path: Path) -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m summarizer.run --help | true",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("adapter.dim={default: 2, '*.mlp.*': 8, head: 1}", "adapter.dim={default: 2, *.mlp.*: 8, head: 1}"),
        ('adapter.dim=2,{"default": 4,"*.q": 8}', "adapter.dim=2,{default: 4,*.q: 8}"),
        ("prompt.template='a, \"b\": {article}'", "prompt.template='a, \"b\": {article}'"),
        ("adapter.dim=2", "adapter.dim=2"),
    ],
)
def test_keys_may_be_quoted_as_in_yaml(word: str, expected: str) -> None:
    assert without_quoted_keys(word) == expected
