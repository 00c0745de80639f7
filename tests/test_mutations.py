"""What damage does to runs, caches, models, data and configs: the short form of `python tests/mutations.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mutations
import pytest
from small_runs import REPOSITORY

MUTATIONS = 40


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_damage_is_told_or_mended(tmp_path: Path) -> None:
    """Each of the mutations ends in the right result, a cache made anew, or one clear message."""
    script = [sys.executable, "tests/mutations.py", "--mutations", str(MUTATIONS), "--work", str(tmp_path)]
    done = subprocess.run(script, cwd=REPOSITORY, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.partition(":")[0].isdigit()]
    assert len(lines) == MUTATIONS, done.stderr
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "verdict", ["traceback", "hang", "crash", "failure", "differs, silently", "not made anew"]
)
def test_what_counts_as_a_fault(verdict: str) -> None:
    fine = [("a", mutations.Outcome(kind, "")) for kind in ("same", "message", "differs")]
    assert [
        line.partition(":")[0] for line in mutations.faults([*fine, ("b", mutations.Outcome(verdict, ""))])
    ] == [verdict]
