"""A disk that takes no more, here by a limit on a file's size: each command ends in one line that says so."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import TINY

COMMANDS = {
    "run": (*TINY, "hydra.run.dir=new"),
    "summarize": ("done", "article.txt", "--output", "new.jsonl"),
    "evaluate": ("done", "--rows", "1"),
    "export": ("done", "--format", "peft"),
    "compare": ("done", "--html", "new.html"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("most_bytes", [0, 2000])
def test_a_full_disk_is_one_line(most_bytes: int, command: str, trained_run: Path, tmp_path: Path) -> None:
    if (command, most_bytes) == ("summarize", 2000):
        pytest.skip("one summary is smaller")
    shutil.copytree(trained_run, tmp_path / "done")
    (tmp_path / "article.txt").write_text("The bridge over the river was closed on Monday.")
    ended = subprocess.run(
        [sys.executable, "-m", f"summarizer.{command}", *COMMANDS[command]],
        cwd=tmp_path,
        env=os.environ | {"SUMMARIZER_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=280,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)),
    )
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("Cannot write ")
    assert "File too large" in last
    assert not [
        path for path in tmp_path.rglob("*") if path.name.startswith((".writing-", "new.jsonl", "new.html"))
    ]
