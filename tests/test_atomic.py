"""Writes are whole or not at all, whatever interrupts them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from summarizer import atomic


def test_a_text_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    atomic.write_text(path, "one\n")
    atomic.write_text(path, "zwei – 2\n")
    assert path.read_text(encoding="utf-8") == "zwei – 2\n"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_full_disk_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    atomic.write_text(path, "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    for content in ("one", "two"):
        with atomic.new_folder(target) as scratch:
            (scratch / "file").write_text(content)
            assert not (target / "file").exists() or content == "two"
        assert (target / "file").read_text() == content
    assert os.listdir(tmp_path) == ["target"]


def test_a_folder_whose_making_fails_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with atomic.new_folder(target) as scratch:
        (scratch / "file").write_text("old")

    def fail_half_way() -> None:
        with atomic.new_folder(target) as scratch:
            (scratch / "file").write_text("new")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail_half_way()
    assert (target / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["target"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    with atomic.new_folder(target) as scratch:
        (scratch / "file").write_text("old")
    replace = os.replace

    def refuse(source: Path, place: Path) -> None:
        if (Path(source) / "new").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, place)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="Input/output"), atomic.new_folder(target) as scratch:
        (scratch / "new").write_text("")
    assert (target / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["target"]


def test_what_a_kill_leaves_is_found_and_removed(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal; from summarizer import atomic\n"
        f"with atomic.new_folder(pathlib.Path({str(tmp_path / 'target')!r})) as scratch:\n"
        "    (scratch / 'file').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(atomic.SCRATCH_PREFIX)
    (tmp_path / "kept").mkdir()
    atomic.remove_scratch(tmp_path)
    assert os.listdir(tmp_path) == ["kept"]


def test_files_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    with atomic.new_folder(tmp_path / "target") as scratch:
        (scratch / "file").touch(mode=0o600)
    before = os.umask(0o022)
    os.umask(before)
    assert (tmp_path / "target" / "file").stat().st_mode & 0o777 == 0o666 & ~before


def test_a_held_folder_is_not_led_elsewhere(tmp_path: Path) -> None:
    """Others write where it lies, and put a link in its place: each swap is a real one."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "mine").mkdir()
    with atomic.held_folder(tmp_path / "mine") as mine, atomic.new_folder(mine / "new", held=True) as new:
        (tmp_path / "mine").rename(tmp_path / "aside")
        (tmp_path / "mine").symlink_to("theirs")
        (unfinished,) = (tmp_path / "aside").iterdir()
        unfinished.rename(tmp_path / "aside" / "unfinished")
        unfinished.symlink_to("../theirs")
        (new / "file").write_text("content")
        atomic.write_text(mine / "text", "more")
        unfinished.unlink()
        (tmp_path / "aside" / "unfinished").rename(unfinished)
    assert os.listdir(tmp_path / "theirs") == []
    assert (tmp_path / "aside" / "new" / "file").read_text() == "content"
    assert (tmp_path / "aside" / "text").read_text() == "more"
    with pytest.raises(OSError), atomic.held_folder(tmp_path / "mine"):  # noqa: PT011 - whichever number it has
        pass


def test_an_error_in_a_held_folder_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic.held_folder(tmp_path) as folder:
        (folder / "no" / "file").touch()
    assert caught.value.filename == str(tmp_path / "no" / "file")
