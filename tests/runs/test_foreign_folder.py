"""A run folder from elsewhere: links in it lead no command out of it, and it is refused by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from small_runs import Command

from summarizer.errors import ConfigError, WriteError
from summarizer.files import open_own, own_folder, read_own
from summarizer.runs.folder import claimed, require_own
from summarizer.runs.logs import RunLog
from summarizer.runs.read_runs import read_run_files
from summarizer.runs.trained_run import read_trained_run
from summarizer.tracking.metrics import MetricsFile


@pytest.fixture
def stranger(tmp_path: Path, trained_run: Path) -> Path:
    """A run that was cut off, as somebody else could send it."""
    shutil.copytree(trained_run, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    return tmp_path / "run"


def linked(folder: Path, name: str, target: Path) -> None:
    """Put a link in the place of something in a run folder."""
    place = folder / name
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    place.symlink_to(os.path.relpath(target, place.parent))


@pytest.mark.slow
def test_resuming_writes_nothing_through_a_link(tmp_path: Path, stranger: Path, command: Command) -> None:
    """The log would have led to a shell's start file, with a command in it that the sender chose."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".bashrc").write_text("# mine\n")
    linked(stranger, "run.log", home / ".bashrc")
    newest = sorted((stranger / "checkpoints").iterdir())[-1]
    newest.rename(newest.with_name("step-00000099"))
    evil = json.dumps({"tensor": "a'`touch PWNED`"})
    (newest.with_name("step-00000099") / "optimizer.json").write_text(evil)
    ended = command([f"resume={stranger}"])
    assert ended.returncode == 2
    assert "run is not opened, since not all in it is its own: run.log is a link; delete that" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (home / ".bashrc").read_text() == "# mine\n"
    subprocess.run(["bash", "-c", f"source {home}/.bashrc"], cwd=tmp_path, check=True)
    assert not (tmp_path / "PWNED").exists()


def test_resuming_deletes_nothing_behind_a_link(tmp_path: Path, stranger: Path, command: Command) -> None:
    theirs = tmp_path / "theirs" / ".writing-a-book" / "chapter"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("once upon a time")
    linked(stranger, "checkpoints", tmp_path / "theirs")
    ended = command([f"resume={stranger}"])
    assert ended.returncode == 2
    assert "checkpoints is a link" in ended.stderr
    assert theirs.read_text() == "once upon a time"
    assert os.listdir(tmp_path / "theirs") == [".writing-a-book"]


@pytest.mark.parametrize(
    "words",
    [
        ("summarize", "run", "article.txt"),
        ("evaluate", "run", "--rows", "1"),
        ("export", "run", "--format", "peft"),
        ("serve", "run", "--port", "0"),
        ("compare", "run"),
    ],
)
@pytest.mark.slow
def test_every_command_refuses_a_folder_with_links(
    words: Sequence[str], tmp_path: Path, trained_run: Path
) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    (tmp_path / "article.txt").write_text("A man went home. He slept.")
    (tmp_path / "theirs").mkdir()
    for name in ("evaluations", "export"):
        linked(tmp_path / "run", name, tmp_path / "theirs")
    command = [sys.executable, "-m", f"summarizer.{words[0]}", *words[1:]]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2, ended.stderr
    assert "evaluations is a link, export is a link" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert not list((tmp_path / "theirs").iterdir())


def test_one_run_with_links_does_not_take_a_comparison_down(tmp_path: Path, trained_run: Path) -> None:
    for name in ("sound", "linked"):
        shutil.copytree(trained_run, tmp_path / name)
    linked(tmp_path / "linked", "predictions", tmp_path / "sound" / "predictions")
    command = [sys.executable, "-m", "summarizer.compare", "sound", "linked"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1, ended.stderr
    assert "predictions is a link" in " ".join(ended.stdout.split())
    assert "sound" in ended.stdout
    assert "the rest was compared" in ended.stderr


@pytest.mark.parametrize(
    "deep", ["run.log", ".hydra/config.yaml", "adapter/more", "checkpoints/step-00000002/best"]
)
def test_a_link_is_found_at_any_depth(deep: str, stranger: Path, tmp_path: Path) -> None:
    (stranger / deep).parent.mkdir(parents=True, exist_ok=True)
    linked(stranger, deep, tmp_path)
    for reader in (read_trained_run, read_run_files):
        with pytest.raises(ConfigError, match=f"{deep} is a link"):
            reader(stranger)


def test_what_is_no_file_is_not_waited_for(stranger: Path) -> None:
    (stranger / "metrics.jsonl").unlink()
    os.mkfifo(stranger / "metrics.jsonl")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl is a pipe"):
        read_run_files(stranger)
    with pytest.raises(OSError, match="it is a pipe"):
        read_own(stranger / "metrics.jsonl")
    with pytest.raises(OSError, match="it is a pipe"):
        RunLog(str(stranger / "metrics.jsonl"))


def test_a_file_in_the_place_of_a_folder(stranger: Path, tmp_path: Path, command: Command) -> None:
    shutil.rmtree(stranger / "checkpoints")
    (stranger / "checkpoints").write_text("x")
    ended = command([f"resume={stranger}"])
    assert ended.returncode == 2
    assert "checkpoints is a file, where a run has a folder" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_name_is_refused_only_where_it_would_be_written_to(stranger: Path, tmp_path: Path) -> None:
    os.link(stranger / "metrics.jsonl", tmp_path / "backup")
    require_own(stranger, "RUN")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl has a second name"):
        require_own(stranger, "resume", resumed=True)


def test_wandb_links_inside_its_own_folder(stranger: Path, tmp_path: Path) -> None:
    (stranger / "wandb" / "run-1" / "logs").mkdir(parents=True)
    (stranger / "wandb" / "latest-run").symlink_to("run-1")
    (stranger / "wandb" / "debug.log").symlink_to("run-1/logs/debug.log")
    # wandb's own log, which a run that was killed leaves so.
    (stranger / "wandb" / "run-1" / "logs" / "debug-core.log").symlink_to(tmp_path / "cache" / "core.log")
    require_own(stranger, "RUN")
    require_own(stranger.parent, "resume")  # a sweep, with this as one of its runs
    (stranger / "wandb" / "run-1" / "files").symlink_to("../../../home")
    with pytest.raises(ConfigError, match="wandb/run-1/files is a link"):
        require_own(stranger, "RUN")
    shutil.rmtree(stranger / "wandb")
    (stranger / "wandb").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="wandb is a link"):
        require_own(stranger, "RUN")


def test_a_base_model_linked_into_an_export_is_a_person_s_own(stranger: Path, tmp_path: Path) -> None:
    (stranger / "export" / "peft").mkdir(parents=True)
    (stranger / "export" / "peft" / "base").symlink_to(tmp_path)
    require_own(stranger, "RUN")
    (stranger / "export" / "merged").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="export/merged is a link"):
        require_own(stranger, "RUN")


def test_a_run_s_own_writers_follow_no_link(tmp_path: Path) -> None:
    """What was put there after the folder was looked at."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run").mkdir()
    for name in ("run.log", "metrics.jsonl", ".lock"):
        (tmp_path / "run" / name).symlink_to("../mine")
    (tmp_path / "run" / "checkpoints").symlink_to("..")
    with pytest.raises(OSError, match="it is a link"):
        RunLog(str(tmp_path / "run" / "run.log"))
    with pytest.raises(ConfigError, match="it is a link"):
        MetricsFile(tmp_path / "run" / "metrics.jsonl")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    metrics = MetricsFile(tmp_path / "run" / "metrics.jsonl")
    (tmp_path / "run" / "metrics.jsonl").symlink_to("../mine")
    with pytest.raises(WriteError, match="it is a link"):
        metrics.log({"step": 1})
    with pytest.raises(ConfigError, match="it is a link"), claimed(tmp_path / "run"):
        pass
    with (
        pytest.raises(WriteError, match="it is a link"),
        own_folder(tmp_path / "run" / "checkpoints"),
    ):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_file_is_opened_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    os.close(open_own(tmp_path / "file", os.O_RDONLY))
    assert read_own(tmp_path / "file") == b"content"
    with pytest.raises(OSError, match="larger than"):
        read_own(tmp_path / "file", most_bytes=6)
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**40)  # a terabyte that takes no room
    with pytest.raises(OSError, match="larger than 16 MB"):
        read_own(tmp_path / "huge")
