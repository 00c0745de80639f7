"""A secret of a command line is on the disk at no moment, and is used all the same: every write is looked at."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from small_runs import TINY, Command

from summarizer.runs.record import read_configured, read_summary

NAME = "hf_abcdefghijklmnopqrstuvwxyz"
TOKEN = "hunter2-and-more"
OVERRIDES = (
    *TINY,
    "trainer.max_steps=1",
    "evaluation.base=false",
    "evaluation.rows_during_training=0",
    "evaluation.rows=1",
    f"tracking.name={NAME}",
    f"tracking.tags=[a,'{NAME} b']",
    f"+hydra.job.env_set.HF_TOKEN={TOKEN}",
)
WATCHING = '''
import os, sys

folder, notes = os.environ["WATCHED"], os.environ["NOTES"]
secrets = [text.encode() for text in os.environ["SECRETS"].split()]
written, states, seen, busy = set(), {}, set(), False

def note(text):
    if text not in seen:
        seen.add(text)
        with open(notes, "a") as file:
            file.write(text + "\\n")

def state_of(path):
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns

def watch(event, arguments):
    """Look at every file that was opened for writing before, whenever anything is opened, renamed or removed."""
    global busy
    if busy or event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
        return
    busy = True
    try:
        for path in sorted(written):
            if os.path.isfile(path) and states.get(path) != (state := state_of(path)):
                states[path] = state
                with open(path, "rb") as file:
                    text = file.read()
                if any(secret in text for secret in secrets):
                    note("LEAK " + path)
        for path in arguments:
            if isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(folder):
                note("WATCHED " + os.path.basename(path))
                written.add(os.path.abspath(path))
        if os.environ.get("HF_TOKEN") == secrets[-1].decode():
            note("USED")
    finally:
        busy = False

sys.addaudithook(watch)
'''


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        [],
        ["-m"],
        ["-m", "hydra/launcher=joblib"],
        ["-m", "hydra.launcher.delegate=submitit_local"],
    ],
)
def test_no_write_holds_a_secret(tmp_path: Path, command: Command, how: list[str]) -> None:
    for plugin in ("joblib", "submitit"):
        if (
            plugin in " ".join(how)
            and importlib.util.find_spec(f"hydra_plugins.hydra_{plugin}_launcher") is None
        ):
            pytest.skip(f"hydra-{plugin}-launcher is not installed")
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "sitecustomize.py").write_text(WATCHING)
    watched, notes = tmp_path / "watched", tmp_path / "notes"
    environment = {
        "PYTHONPATH": str(tmp_path / "hooks"),
        "WATCHED": str(watched),
        "NOTES": str(notes),
        "SECRETS": f"{NAME} {TOKEN}",
    }
    own = ["adapter.dim=2,4", f"hydra.sweep.dir={watched}"] if how else [f"hydra.run.dir={watched}"]
    ended = command([*OVERRIDES, *own, *how], env={**os.environ, **environment})
    assert ended.returncode == 0, ended.stderr
    found = notes.read_text().split("\n")
    assert not [line for line in found if line.startswith("LEAK")]
    names = ("config.yaml", "hydra.yaml", "overrides.yaml", "run.log", "summary.json")
    assert {f"WATCHED {name}" for name in (*names, *(["multirun.yaml"] if how else []))} <= set(found)
    assert "USED" in found
    files = [path for path in watched.rglob("*") if path.is_file()]
    assert not [path for path in files for secret in (NAME, TOKEN) if secret.encode() in path.read_bytes()]
    runs = [watched / "0", watched / "1"] if how else [watched]
    assert [read_summary(run).status for run in runs] == ["completed"] * len(runs)
    assert read_configured(runs[0]).config["tracking"]["name"] == "***"
