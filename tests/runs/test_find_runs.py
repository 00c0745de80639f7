from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from invented_runs import make_run

from summarizer.runs.find_runs import Found, find
from summarizer.runs.record import RunRecord
from summarizer.sweeps.record import begin


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Of four runs, of which the first has not begun and number 10 comes after number 9."""
    folder = tmp_path / "multirun" / "day" / "time"
    for number in ("9", "10", "2"):
        make_run(folder / number, rows=2)
    runs = [RunRecord(folder=number, group=i) for i, number in enumerate(("1", "2", "9", "10"))]
    folder.mkdir(parents=True, exist_ok=True)
    begin(folder, runs, "val/loss")
    return folder


def folders(found: Found) -> list[str]:
    return [folder.name for folder in found.folders]


def test_a_sweep_is_its_runs_in_their_order(sweep: Path, tmp_path: Path) -> None:
    found = find([sweep])
    assert folders(found) == ["2", "9", "10"]
    assert found.notes == [f"1 of the 4 runs of {sweep} have not begun."]
    (sweep / "sweep.json").unlink()
    assert folders(find([tmp_path / "multirun"])) == ["2", "9", "10"]


def test_a_broken_sweep_record_is_named_and_its_runs_are_found(sweep: Path) -> None:
    (sweep / "sweep.json").write_text("{")
    found = find([sweep])
    assert folders(found) == ["2", "9", "10"]
    assert list(found.problems) == [str(sweep / "sweep.json")]


def test_runs_that_train_together_are_said_to_share(tmp_path: Path) -> None:
    for number in ("0", "1"):
        make_run(tmp_path / number, rows=2)
    begin(tmp_path, [RunRecord(folder=number, overrides=(), group=0) for number in ("0", "1")], "val/loss")
    assert "share their time and memory" in find([tmp_path]).notes[0]


def test_a_run_named_twice_is_found_once(sweep: Path) -> None:
    link = sweep.parent / "link"
    link.symlink_to(sweep / "9")
    assert folders(find([sweep / "9", sweep, link, sweep / "9"])) == ["9", "2", "10"]


def test_a_folder_of_wandbs_is_told_that_run_folders_are_compared(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=2)
    offline = run / "wandb" / "offline-run-20260101_000000-abc"
    offline.mkdir(parents=True)
    (offline / "run-abc.wandb").touch()
    assert find([run]).folders == [run]
    assert folders(find([tmp_path])) == ["run"]
    for path in (offline, offline.parent, offline / "run-abc.wandb"):
        found = find([path])
        assert found.folders == []
        assert list(found.problems) == [str(path)]
        assert "run folders are compared" in found.problems[str(path)]


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    found = find([tmp_path / name for name in ("empty", "file", "none")])
    assert found.folders == []
    assert [text.split(":")[0] for text in found.problems.values()] == [
        "holds no run",
        "is a file; name the folder of a run",
        "no such folder",
    ]


def test_links_are_followed_only_where_they_are_named(tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    make_run(tree / "run", rows=2)
    make_run(outside / "other", rows=2)
    (tree / "round").symlink_to(tree)
    (tree / "link").symlink_to(outside)
    shutil.copytree(tree / "run", tree / ".hidden")
    assert folders(find([tree])) == ["run"]
    assert folders(find([tree / "link"])) == ["other"]
