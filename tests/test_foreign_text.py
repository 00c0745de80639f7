"""Every command, fed with names and texts that steer a terminal or hold secrets: none of it comes out again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import pytest
from small_runs import REPOSITORY, TINY

STEERING = "\x1b]52;c;aGk=\x07\x1b[2J\x1b]0;t\x07\x9b31m\u202e\u2066"
NAME = f"a{STEERING}b"
"""Of a file, a folder, a column."""
BROKEN = f"{NAME}\r\nERROR forged\u2028"
"""Of a row, an override."""
PARTS = ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\u202e", "\u2066", "\r", "\u2028", "\nERROR forged")
SAMPLE = REPOSITORY / "summarizer" / "data" / "sample" / "train.jsonl"
SECRETS = {
    "tracking.name": "hf_abcdefghijklmnopqrstuvwxyz012345",
    "tracking.group": "ghp_abcdefghijklmnopqrstuvwxyz012345",
    "tracking.tags": "[wandb_v1_abcdefghijklmnopqrstuv,0123456789abcdef0123456789abcdef01234567]",
    "+hydra.job.env_set.HF_TOKEN": "hunter2hunter",
}


def assert_safe(*texts: str) -> None:
    for text in texts:
        assert not [part for part in PARTS if part in text], repr(text[:2000])


def called(command: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    module = import_module("summarizer.__main__" if command == "summarizer" else f"summarizer.{command}")
    code: int = module.command(list(arguments))
    return code


def row_files(folder: Path) -> dict[str, Path]:
    """Data files with such names, columns and ids; one row of each file cannot be used."""
    rows = [json.loads(line) for line in SAMPLE.read_text().splitlines()[:6]]
    for number, row in enumerate(rows):
        row["id"] = f"{number}{BROKEN}"
    bad = {"id": BROKEN, "article": "", "highlights": "x"}
    texts = {
        "rows": "".join(json.dumps(row) + "\n" for row in [*rows, bad]),
        "columns": json.dumps({BROKEN: "a", f"{NAME}2": "b"}) + "\n",
        "doubled": json.dumps({"article": "a"})[:-1]
        + f', "article": {json.dumps(BROKEN)}, "highlights": "c"}}\n',
        "broken": f"{{{BROKEN}",
        "csv": f'article,highlights,{NAME},{NAME}\n"a,b,c,d\n',
    }
    files = {}
    for name, text in texts.items():
        files[name] = folder / f"{name}{NAME}.{'csv' if name == 'csv' else 'jsonl'}"
        files[name].write_text(text, encoding="utf-8")
    return files


Mistake = Callable[[dict[str, Path], Path], tuple[str, list[str]]]


def data(files: dict[str, Path], name: str, *more: str) -> list[str]:
    quoted = f"'{files[name]}'"
    return ["data=files", f"data.train={quoted}", f"data.validation={quoted}", "tracking=none", *more]


MISTAKES: dict[str, Mistake] = {
    "a value": lambda files, there: ("run", [f'adapter.dim="{NAME}"']),
    "a value of two lines": lambda files, there: ("run", [f'trainer.memory="{BROKEN}"']),
    "no override": lambda files, there: ("run", [BROKEN]),
    "a key": lambda files, there: ("run", [f"+adapter.{NAME}=1"]),
    "an option": lambda files, there: ("run", [f"adapter={NAME}"]),
    "a sweep": lambda files, there: ("run", ["-m", f'adapter.dim="{NAME}",2']),
    "a model": lambda files, there: ("run", [f'model.name_or_path="/nowhere/{NAME}"']),
    "an adapter": lambda files, there: ("run", [f'adapter.start_from="{there}/{NAME}"']),
    "no data": lambda files, there: ("run", ["data=files", f'data.train="{there}/{NAME}.jsonl"']),
    "columns": lambda files, there: ("run", data(files, "columns")),
    "two columns": lambda files, there: ("run", data(files, "csv", f'data.columns.id="{NAME}"')),
    "a csv": lambda files, there: ("run", data(files, "csv")),
    "resuming": lambda files, there: ("run", [f"resume={there}/{NAME}"]),
    "a target": lambda files, there: ("run", [f'adapter._target_="x.{NAME}"']),
    "summarize": lambda files, there: ("summarize", [f"{there}/{NAME}", f"{NAME}.txt"]),
    "summarize's flags": lambda files, there: ("summarize", [f"--{NAME}", f"--beams={BROKEN}", NAME]),
    "evaluate": lambda files, there: ("evaluate", [f"{there}/{NAME}", "--split", NAME, f"--{BROKEN}"]),
    "export": lambda files, there: ("export", [f"{there}/{NAME}", "--format", BROKEN]),
    "compare": lambda files, there: ("compare", [f"{there}/{NAME}", "--by", BROKEN]),
    "serve": lambda files, there: ("serve", [f"{there}/{NAME}", "--host", NAME, "--port", BROKEN]),
    "sweep": lambda files, there: ("sweep", [f"{there}/{NAME}", "clone", "1", f"{NAME}=2"]),
    "no command": lambda files, there: ("summarizer", [BROKEN]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_no_mistake_steers_a_terminal(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command, arguments = MISTAKES[name](row_files(tmp_path), tmp_path)
    assert any(part in "".join(arguments) for part in PARTS), "the test feeds what it looks for"
    assert called(command, arguments, monkeypatch) == 2
    said = capfd.readouterr()
    assert said.err
    assert_safe(said.out, said.err)


def test_every_command_is_fed() -> None:
    fed = {make({name: Path(name) for name in ("columns", "csv")}, Path())[0] for make in MISTAKES.values()}
    commands = set(import_module("summarizer.__main__").COMMANDS)
    assert len(MISTAKES) == 22
    assert fed == commands | {"summarizer"}


@pytest.mark.slow
def test_rows_and_folders_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run with such ids, rows, files and folder, then each command on it; and with secrets in its overrides."""
    monkeypatch.chdir(tmp_path)
    files = row_files(tmp_path)
    folder = tmp_path / f"run{NAME}"
    rows = data(files, "rows", "data.columns.id=id", "data.max_bad_rows=1")
    rows.remove("tracking=none")
    small = [override for override in TINY if override != "tracking=none"]
    secret = [f"{key}={value}" for key, value in SECRETS.items()]
    more = ["tracking.mode=offline", "trainer.max_steps=1", f'hydra.run.dir="{folder}"', *secret]
    assert called("run", [*small, *rows, *more], monkeypatch) == 0
    said = capfd.readouterr()
    log = (folder / "run.log").read_bytes().decode()
    assert "1 row skipped" in log
    assert_safe(said.out, said.err, log)

    values = [word.strip("[]") for value in SECRETS.values() for word in value.split(",")]
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert (len(values), any(path.suffix == ".wandb" for path in written)) == (5, True)
    for value in values:
        assert value not in said.out + said.err
        assert not [str(path) for path in written if value.encode() in path.read_bytes()], value

    articles = tmp_path / f"{NAME}.txt"
    articles.write_text("The council met on Tuesday.", encoding="utf-8")
    run = str(folder)
    for command, arguments in (
        ("summarize", [run, str(files["rows"]), str(articles), "--max-new-tokens", "4"]),
        ("evaluate", [run, "--rows", "2", "--no-base", "--max-new-tokens", "4"]),
        ("compare", [run]),
        ("run", [f"resume={run}"]),
        ("export", [run, "--format", "peft"]),
    ):
        code = called(command, arguments, monkeypatch)
        said = capfd.readouterr()
        assert code == (2 if command == "summarize" else 0), (command, said.err)
        assert_safe(said.out, said.err)
    assert_safe((folder / "run.log").read_bytes().decode())
