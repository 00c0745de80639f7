"""What is on disk is whole, or made anew, or refused by name: each kind of file damaged, between two commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from damage import DAMAGE
from small_runs import TINY

from summarizer.config.paths import PACKAGE
from summarizer.tracking.metrics import read_metrics

ARGUMENTS = (
    *TINY,
    "quantization=nf4",  # not as the package stores its model, so that the base is in the cache
    "trainer.max_steps=4",
    "trainer.checkpoint_every_steps=2",
    "trainer.evaluate_every_steps=2",
    "optimizer.lr=1e-2",
    "evaluation.rows=2",
    "evaluation.base=false",
)


def call(home: Path, command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A command as a person runs it, with the cache in `home`."""
    return subprocess.run(
        [sys.executable, "-m", f"summarizer.{command}", *map(str, arguments)],
        env=os.environ | {"SUMMARIZER_CACHE": str(home / "cache")},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of an earlier command, and the cache that it left."""
    home = tmp_path_factory.mktemp("first")
    ended = call(home, "run", *ARGUMENTS, "hydra.run.dir=run")
    assert ended.returncode == 0, ended.stderr
    return home


@pytest.fixture
def home(first: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return shutil.copytree(first, tmp_path / "home")


def cut_off(run: Path) -> None:
    """Leave a run as a kill after its last checkpoint would have."""
    (run / "summary.json").unlink()
    shutil.rmtree(run / "adapter")


def numbers(run: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """What a run comes to: its adapter, and what it logged but for times and memory."""
    timed = ("train/tokens_per_s", "train/mfu", "train/memory_bytes")
    rows = read_metrics(run / "metrics.jsonl")
    logged = [{key: value for key, value in row.items() if key not in timed} for row in rows]
    return (run / "adapter" / "adapter_model.safetensors").read_bytes(), logged


@pytest.mark.slow
@pytest.mark.parametrize("what", DAMAGE)
def test_caches_are_made_anew_and_a_line_says_so(what: str, home: Path, first: Path) -> None:
    bases, tokens = list(home.glob("cache/bases/*/base-*")), list(home.glob("cache/data/*/entry/rows.arrow"))
    assert (len(bases), len(tokens)) == (1, 2)
    for file in (*bases, *tokens):
        DAMAGE[what](file)
    ended = call(home, "run", *ARGUMENTS, "hydra.run.dir=again")
    assert ended.returncode == 0, ended.stderr
    fact = "is missing" if what == "deleted" else "is damaged: its bytes are not those that were written"
    for file in (*bases, *tokens):
        assert ended.stderr.count(f"{file.parent} ") == 1
        assert f"{file.name} {fact}" in ended.stderr
    assert numbers(home / "again") == numbers(first / "run")
    for file in (*bases, *tokens):
        assert file.read_bytes() == (first / file.relative_to(home)).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_checkpoint_is_refused_for_the_one_before(what: str, home: Path, first: Path) -> None:
    cut_off(home / "run")
    DAMAGE[what](home / "run" / "checkpoints" / "step-00000004" / "optimizer.safetensors")
    ended = call(home, "run", "resume=run")
    assert ended.returncode == 0, ended.stderr
    said = "checkpoint step-00000004 cannot be read, trying the one before: optimizer.safetensors is "
    assert ended.stderr.count(said) == 1
    assert "resuming from step-00000002" in ended.stderr
    assert numbers(home / "run") == numbers(first / "run")


@pytest.mark.slow
def test_without_a_sound_checkpoint_the_message_leads_to_a_run_from_the_beginning(
    home: Path, first: Path
) -> None:
    cut_off(home / "run")
    for step in (2, 4):
        DAMAGE["one bit flipped"](home / "run" / "checkpoints" / f"step-{step:08d}" / "reached.json")
    ended = call(home, "run", "resume=run")
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "step-00000004: reached.json is damaged" in ended.stderr
    assert f"none of the 2 checkpoints in {home / 'run' / 'checkpoints'} can be read" in ended.stderr
    assert "delete that folder, and the run is resumed from its beginning" in ended.stderr
    shutil.rmtree(home / "run" / "checkpoints")
    again = call(home, "run", "resume=run")
    assert again.returncode == 0, again.stderr
    assert numbers(home / "run") == numbers(first / "run")


@pytest.mark.slow
@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_adapter_is_refused_and_the_message_leads_to_a_sound_one(
    what: str, home: Path, first: Path
) -> None:
    (home / "news.txt").write_text((PACKAGE / "data" / "sample" / "validation.jsonl").read_text()[:300])
    DAMAGE[what](home / "run" / "adapter" / "adapter_model.safetensors")
    refused = call(home, "summarize", "run", "news.txt")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Traceback" not in refused.stderr
    fact = "is missing" if what == "deleted" else "is damaged: its bytes are not those that were written"
    assert f"run/adapter: adapter_model.safetensors {fact}" in refused.stderr
    way_on = "delete run/summary.json and `python -m summarizer.run resume=run` saves it anew"
    assert way_on in refused.stderr
    (home / "run" / "summary.json").unlink()
    assert call(home, "run", "resume=run").returncode == 0
    assert numbers(home / "run") == numbers(first / "run")
    assert call(home, "summarize", "run", "news.txt").returncode == 0
