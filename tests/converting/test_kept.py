"""What is kept in the cache folder: once for all processes, whole or not at all."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from summarizer.converting import kept as kept_module
from summarizer.converting.kept import ENTRY, kept, require_room
from summarizer.errors import ConfigError

BUILDING = """
import sys, time
from pathlib import Path
from summarizer.converting.kept import kept

def build(folder):
    (folder / "part").write_text("theirs")
    Path(sys.argv[2]).touch()
    time.sleep(float(sys.argv[3]))

kept(Path(sys.argv[1]), build, lambda folder: None)
"""


class Built:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self, folder: Path) -> None:
        self.times += 1
        (folder / "part").write_text("ours")


def text(folder: Path) -> str:
    found = (folder / "part").read_text()
    if found == "????":
        raise RuntimeError("no such graph")
    return found


def started(home: Path, sign: Path, seconds: float) -> subprocess.Popen[bytes]:
    """A process that is in the middle of building."""
    process = subprocess.Popen([sys.executable, "-c", BUILDING, home, sign, str(seconds)])
    deadline_s = time.monotonic() + 60
    while not sign.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return process


def test_it_is_built_once(tmp_path: Path) -> None:
    build = Built()
    assert [kept(tmp_path / "home", build, text) for _ in range(3)] == ["ours"] * 3
    assert build.times == 1


@pytest.mark.parametrize("damage", ["ou", "????"], ids=["truncated", "what the reader refuses"])
def test_a_damaged_entry_is_made_anew(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build = Built()
    kept(tmp_path, build, text)
    (tmp_path / ENTRY / "part").write_text(damage)
    with caplog.at_level(logging.WARNING):
        assert kept(tmp_path, build, text) == "ours"
    assert build.times == 2
    assert "is damaged and made anew" in caplog.text
    (tmp_path / ENTRY / "part").unlink()
    assert kept(tmp_path, build, text) == "ours"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def failing(folder: Path) -> None:
        (folder / "part").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path, failing, text)
    assert not (tmp_path / ENTRY).exists()
    assert kept(tmp_path, Built(), text) == "ours"


def test_a_killed_process_leaves_no_entry_and_no_lock(tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = started(home, tmp_path / "sign", 60)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (home / ENTRY).exists()
    assert len(list(home.glob(".writing-*"))) == 1
    assert kept(home, Built(), text) == "ours"
    assert not list(home.glob(".writing-*"))


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    process = started(tmp_path / "home", tmp_path / "sign", 1.0)
    build = Built()
    assert kept(tmp_path / "home", build, text) == "theirs"
    assert build.times == 0
    assert process.wait() == 0


def test_a_full_disk_is_said_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    require_room(1)
    monkeypatch.setattr(kept_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**9}))
    with pytest.raises(
        ConfigError, match=r"--backend: converting needs 2.00 GB in the cache folder .* 1.00 GB"
    ):
        require_room(2 * 10**9)
