"""A disk that takes no more: one message, exit code 1, nothing half-written, and all goes on once there is room.

A limit on the size of a file (`ulimit -f`) refuses a write as a full disk does, at a place that can be chosen. A
real disk that is too small, and is made larger then, needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_commands import Call, Ended, ended
from small_runs import TINY

from summarizer.digests import DIGESTS
from summarizer.runs.record import read_summary
from summarizer.tracking.metrics import read_metrics

SMALL = (
    *TINY,
    "trainer.max_steps=2",
    "trainer.checkpoint_every_steps=1",
    "evaluation.base=false",
    "evaluation.rows=1",
    "evaluation.rows_during_training=0",
)
CHECKPOINT = 600_000
"""Between the adapter (420 kB) and the state of its optimizer (696 kB)."""
ADAPTER = 500_000


def one_message(refused: Ended, file: str) -> None:
    assert refused.code == 1, refused.said
    assert "Traceback" not in refused.said
    lines = [line for line in refused.said.splitlines() if line.startswith("Cannot write ")]
    assert len(lines) == 1, refused.said
    assert file in lines[0]
    assert lines[0].count("File too large") + lines[0].count("No space left on device") == 1


def is_whole(folder: Path) -> None:
    """Everything below a folder can be read, and nothing is there that was being written."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            assert all(json.loads(line) for line in path.read_text().splitlines())
    scratch = [path for path in folder.rglob("*") if path.name.startswith((".writing-", ".tmp"))]
    assert not scratch
    for checkpoint in folder.glob("checkpoints/*"):
        assert (checkpoint / DIGESTS).is_file()


def same_end(one: Path, other: Path) -> None:
    """To the last bit, but for what a clock tells."""
    assert read_summary(one).status == read_summary(other).status == "completed"
    losses = [
        [
            (row["step"], row.get("train/loss"), row.get("val/loss"))
            for row in read_metrics(run / "metrics.jsonl")
        ]
        for run in (one, other)
    ]
    assert losses[0] == losses[1]
    tensors = [(run / "adapter" / "adapter_model.safetensors").read_bytes() for run in (one, other)]
    assert tensors[0] == tensors[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that had room, beside the folder `cache`."""
    run = tmp_path_factory.mktemp("room") / "whole"
    (only,) = ended([Call("run", [*SMALL, f"hydra.run.dir={run}"], str(run.parent), None, cache_of(run))])
    assert only.code == 0, only.said
    return run


def cache_of(whole: Path) -> str:
    return str(whole.parent / "cache")


@pytest.mark.slow
def test_a_limit_on_the_size_of_files(tmp_path: Path, whole: Path) -> None:
    """Each of a run's kinds of files is refused once, then those of the commands that come after a run."""
    shutil.copytree(whole, tmp_path / "whole")

    def call(command: str, *arguments: str, limit: int | None = None, cache: str = cache_of(whole)) -> Call:
        return Call(command, arguments, str(tmp_path), limit, cache)

    config, checkpoint, tokens = (tmp_path / name for name in ("config", "checkpoint", "tokens"))
    own_cache = str(tmp_path / "cache2")
    evaluate = ("evaluate", "whole", "--split", "validation", "--rows", "1")
    export = ("export", "whole", "-o", "exported", "--format")
    found = ended(
        [
            call("run", *SMALL, f"hydra.run.dir={config}", limit=1000),
            call("run", *SMALL, f"hydra.run.dir={checkpoint}", limit=CHECKPOINT),
            call("run", *SMALL, f"hydra.run.dir={tokens}", limit=8000, cache=own_cache),
            call(*evaluate, limit=100),
            call(*export, "peft", limit=ADAPTER),
            call(*export, "merged", limit=ADAPTER),
            call("compare", "whole", "--html", "page.html", limit=1000),
        ]
    )
    places = (".hydra/config.yaml", "checkpoints/step-00000001", "cache2/data", "", "exported", "exported")
    for refused, place in zip(found, (*places, "page.html"), strict=True):
        one_message(refused, place)
    assert not config.exists()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"whole", "checkpoint", "tokens", "cache2"}
    for folder in (tmp_path / name for name in left):
        is_whole(folder)
    assert read_summary(checkpoint).status == read_summary(tokens).status == "failed"
    again = ended(
        [
            call("run", f"resume={checkpoint}"),
            call("run", f"resume={tokens}", cache=own_cache),
            call(*evaluate),
            call(*export, "peft"),
            call("compare", "whole", "--html", "page.html"),
        ]
    )
    assert [one.code for one in again] == [0] * len(again), [one.said for one in again]
    same_end(checkpoint, whole)
    same_end(tokens, whole)
    assert (tmp_path / "exported" / "adapter_model.safetensors").is_file()
    assert "</html>" in (tmp_path / "page.html").read_text()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB, which is less than a checkpoint."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root, and a system that lets it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_small_disk_that_is_made_larger(disk: Path, whole: Path) -> None:
    """Too small for a first checkpoint, and for a second one."""
    runs = []
    for size in ("1m", "2m"):
        subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
        runs.append(disk / size)
        arguments = [*SMALL, "trainer.keep_checkpoints=9", f"hydra.run.dir={runs[-1]}"]
        (refused,) = ended([Call("run", arguments, str(whole.parent), None, cache_of(whole))])
        one_message(refused, str(runs[-1]))
        is_whole(runs[-1])
    assert [len(list(run.glob("checkpoints/step-*"))) for run in runs] == [0, 1]
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    again = ended([Call("run", [f"resume={run}"], str(whole.parent), None, cache_of(whole)) for run in runs])
    assert [one.code for one in again] == [0, 0], [one.said for one in again]
    for run in runs:
        same_end(run, whole)
