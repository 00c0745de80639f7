from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from summarizer.config.paths import PACKAGE
from summarizer.evaluation.metrics import score_pairs
from summarizer.evaluation.parallel import CHUNK_ROWS, map_rows
from summarizer.evaluation.record import VARIANTS

# No `if __name__ == "__main__"`, and torch loaded with its threads started: what a fork or a spawn would break on.
SCRIPT = """
import sys
import torch
from summarizer.evaluation.metrics import score_pairs
torch.ones(64, 64) @ torch.ones(64, 64)
print("main", flush=True)
count = int(sys.argv[1])
texts = ["The cats were running. Dogs slept." * 9] * count
scores = score_pairs(texts, texts, processes=2)
print("scored", scores["rouge1"].sum(), flush=True)
"""


def start(folder: Path, rows: int) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), str(rows)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"},
    )


def lengths(texts: list[str], others: list[str]) -> list[int]:
    return [len(text) - len(other) for text, other in zip(texts, others, strict=True)]


@pytest.mark.parametrize("rows", [0, 1, CHUNK_ROWS, CHUNK_ROWS + 1, 3 * CHUNK_ROWS - 1])
def test_one_result_a_row_in_order(rows: int) -> None:
    texts, others = ["x" * row for row in range(rows)], ["y" * (row % 3) for row in range(rows)]
    expected = [row - row % 3 for row in range(rows)]
    assert map_rows(lengths, texts, others, label="lengths", show=False) == expected
    assert map_rows(lengths, texts, others, label="lengths", show=False, processes=9) == expected


def first_last(texts: list[str]) -> list[str]:
    if texts[0] == "0":
        time.sleep(1.0)
    return texts


def test_a_slow_chunk_keeps_its_place() -> None:
    texts = [str(row) for row in range(5 * CHUNK_ROWS)]
    assert map_rows(first_last, texts, label="texts", show=False, processes=2) == texts


def test_no_process_is_refused() -> None:
    with pytest.raises(ValueError, match="not 0"):
        map_rows(lengths, ["a"], ["b"], label="lengths", processes=0)


def test_two_processes_score_as_one_does() -> None:
    generator = random.Random(0)
    vocabulary = [
        "the",
        "a",
        "cat",
        "dog",
        "runs",
        "ran",
        "running",
        "sat",
        "slept",
        "mat",
        "tree",
        ".",
        "!",
        "U.S.",
        "Mr.",
    ]
    texts = [[" ".join(generator.choices(vocabulary, k=12)) for _ in range(200)] for _ in range(2)]
    alone = score_pairs(*texts, show=False, processes=1)
    together = score_pairs(*texts, show=False, processes=2)
    assert len({float(value) for value in alone["rouge1"]}) > 10
    for variant in VARIANTS:
        assert np.array_equal(alone[variant], together[variant])


@pytest.mark.slow
def test_a_script_without_a_main_guard_runs_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = start(tmp_path, 200)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "main\nscored 20000.0\n", "")


def pressed_until_it_ends(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ctrl-C as a terminal sends it: the workers hear it too, while they start.

    Python drops one that comes while a finalizer runs; a person would press again, and so does this.
    """
    for _ in range(6):
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=10)
    raise AssertionError("it does not end")


def test_ctrl_c_ends_all_processes_with_one_traceback_at_most(tmp_path: Path) -> None:
    process = start(tmp_path, 200_000)
    workers: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while len(workers) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in children if "popen_loky" in " ".join(child.cmdline())]
    assert len(workers) == 2
    out, err = pressed_until_it_ends(process)
    assert out == "main\n"
    assert process.returncode == -signal.SIGINT
    assert err.count("Traceback") == 1, err
    assert err.rstrip().endswith("KeyboardInterrupt")
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
