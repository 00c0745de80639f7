"""One run, one folder, one process; and what a folder from elsewhere may not do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from config.composing import composed
from omegaconf import OmegaConf

from summarizer.config.plain import to_plain
from summarizer.errors import ConfigError
from summarizer.runs.folder import check_unused, claimed, take_back
from summarizer.runs.preflight import preflight
from summarizer.runs.record import RunRecord, read_configured, records_from_json, records_to_json

HOLD = (
    "import sys; from pathlib import Path; from summarizer.runs.folder import claimed\n"
    "with claimed(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
)


def test_a_folder_belongs_to_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another process is running in this folder"), claimed(folder):
            pass
        other.kill()
        other.wait()
        with claimed(folder):  # a killed process lets go by itself
            pass
    with claimed(folder):
        pass


@pytest.mark.parametrize(("key", "where"), [("hydra.run.dir", "."), ("hydra.sweep.dir", "0")])
def test_a_used_folder_is_refused(key: str, where: str, tmp_path: Path) -> None:
    arguments = ["adapter.dim=2", f"{key}={tmp_path}"]
    check_unused(arguments)
    (tmp_path / where).mkdir(exist_ok=True)
    check_unused(arguments)
    (tmp_path / where / "metrics.jsonl").touch()
    with pytest.raises(ConfigError) as caught:
        check_unused(arguments)
    assert str(caught.value).startswith(f"{key}: {tmp_path} holds a run already; give another folder")
    check_unused([f"{key}={tmp_path}/${{now:%H}}", f"hydra.job.name={tmp_path}"])
    for typed in (f"++{key}={tmp_path}", f"{key}='{tmp_path}'", f'{key}="{tmp_path}"'):
        with pytest.raises(ConfigError, match="holds a run already"):
            check_unused([typed])


def test_a_folder_is_only_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked may be a mistake's command, or `--cfg job`, which leave nothing behind."""
    monkeypatch.chdir(tmp_path)
    check_unused(["hydra.run.dir=made/by/the/run", "hydra.sweep.dir='my sweep'"])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for folder, reason in (("file", "file is a file"), ("file/x", "file is a file"), ("x" * 300, "too long")):
        with pytest.raises(ConfigError, match=f"cannot be used: .*{reason}"):
            check_unused([f"hydra.run.dir={folder}"])
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"a/b cannot be used: .* is read-only"):
        check_unused(["hydra.sweep.dir=a/b"])


def test_a_sweep_that_was_cut_off_is_gone_on_with_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "metrics.jsonl").touch()
    with pytest.raises(ConfigError, match=rf"or resume={tmp_path}/3 if it was cut off"):
        check_unused([f"hydra.sweep.dir={tmp_path}"])  # a folder of runs, which resume= takes one by one
    (tmp_path / "sweep.json").touch()
    with pytest.raises(ConfigError, match=rf"or resume={tmp_path} if it was cut off"):
        check_unused([f"hydra.sweep.dir={tmp_path}"])


def test_a_job_crosses_process_borders() -> None:
    job = RunRecord(
        config=to_plain(composed()),
        folder="/x/ü",
        overrides=("adapter.dim=2", "prompt.template='\n'"),
        sweep="s",
        resumed=True,
    )
    jobs = [job, RunRecord(folder="x")]
    assert records_from_json(records_to_json(jobs)) == jobs
    assert records_from_json(records_to_json([])) == []


def run_folder(folder: Path, config: Any, overrides: Any = ("adapter.dim=2",)) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    for name, content in (("config", config), ("overrides", list(overrides))):
        text = content if isinstance(content, str) else OmegaConf.to_yaml(OmegaConf.create(content))
        (folder / ".hydra" / f"{name}.yaml").write_text(text)
    return folder


def test_the_job_of_a_folder(tmp_path: Path) -> None:
    folder = run_folder(
        tmp_path / "sweep" / "0", composed("adapter.dim=3"), ["adapter.dim=3", "seed=${oc.env:HOME}"]
    )
    job = read_configured(folder)
    assert job == RunRecord(
        config=to_plain(composed("adapter.dim=3")),
        folder=str(folder),
        overrides=("adapter.dim=3", "seed=${oc.env:HOME}"),
        resumed=True,
    )
    assert job.config["prompt"]["completion_token"] == "<|extratoken_1|>"
    (folder.parent / "multirun.yaml").touch()
    assert read_configured(folder).sweep == "sweep"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("a: [", "cannot be read"),
        ("- 1", "is not a run's config"),
        ("\x00", "cannot be read"),
        ("a: !!python/object/apply:os.getcwd []", "cannot be read"),
        ("a: ${", "cannot be read|is not resolved"),
    ],
)
def test_a_broken_folder(config: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_configured(run_folder(tmp_path / "x", config))


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"resume: .*/none: no such folder"):
        read_configured(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"no run folder: it has no \.hydra/config\.yaml"):
        read_configured(tmp_path)
    folder = run_folder(tmp_path / "x", composed())
    (folder / "adapter").mkdir()
    (folder / "summary.json").touch()
    for part in ("adapter", "summary.json"):
        with pytest.raises(
            ConfigError, match=f"{part}: is a part of a run; name the run's folder, {folder}$"
        ):
            read_configured(folder / part)
    (folder / ".hydra" / "overrides.yaml").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_configured(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"a": "${oc.env:HOME}"},
        {"a": {"b": ["x", "to ${oc.env:HOME} and on"]}},
        {"a": "\\${oc.env:HOME}"},
        {"a": "${oc.decode:'${b}'}", "b": "1"},
        {"a": "${${b}:HOME}", "b": "oc.env"},
        {"a": "$${b}", "b": "{oc.env:HOME}"},
        {"a": "${b}:HOME}", "b": "\\${oc.env"},
        {"a": "${oc.create:{}}"},
        {"a": "${now:%Y}"},
    ],
)
def test_a_folder_from_elsewhere_calls_nothing(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/secret")
    with pytest.raises(ConfigError, match="is not resolved in a run folder") as caught:
        read_configured(run_folder(tmp_path / "x", config))
    assert "secret" not in str(caught.value)
    assert all(issue.key for issue in caught.value.issues)


def test_a_target_from_elsewhere_is_refused(tmp_path: Path) -> None:
    config = composed()
    config.optimizer = {"_target_": "os.system", "command": f"touch {tmp_path}/was_here"}
    job = read_configured(run_folder(tmp_path / "x", config))
    with pytest.raises(ConfigError, match=r"optimizer\._target_: 'os\.system' is not allowed"):
        preflight(OmegaConf.create(job.config))
    assert not (tmp_path / "was_here").exists()


def test_the_folder_of_a_refused_run_is_taken_back_if_nothing_else_is_in_it(tmp_path: Path) -> None:
    def made(name: str, *more: str) -> Path:
        (tmp_path / name / ".hydra").mkdir(parents=True)
        for file in (".hydra/config.yaml", "run.log", *more):
            (tmp_path / name / file).touch()
        return tmp_path / name

    refused, began, users = (
        made("refused", ".lock"),
        made("began", "summary.json"),
        made("users", "notes.txt"),
    )
    for folder in (refused, began, users):
        take_back(folder)
    assert not refused.exists()
    assert (began / ".hydra" / "config.yaml").is_file()
    assert (users / ".hydra" / "config.yaml").is_file()
    taken = made("taken")
    with claimed(taken):
        take_back(taken)
        assert (taken / ".hydra" / "config.yaml").is_file()


def test_a_day_whose_only_run_was_taken_back_leaves_no_empty_folder(tmp_path: Path) -> None:
    def refused(day: str, run: str) -> Path:
        (tmp_path / day / run / ".hydra").mkdir(parents=True)
        return tmp_path / day / run

    take_back(refused("2026-11-29", "10-15-30-123456"))
    take_back(refused("mine", "run"))
    alone, other = refused("2026-11-30", "10-15-30-123456"), refused("2026-11-30", "11-15-30-123456")
    take_back(alone)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2026-11-30", "mine"]
    assert other.is_dir()
