"""What several layers' tests share: a run small enough for a test, in a cache folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

TINY = (
    "data.rows.train=8",
    "data.rows.validation=4",
    "prompt.max_tokens=160",
    "generation.max_new_tokens=6",
    "evaluation.rows_during_training=2",
    "evaluation.bootstrap_samples=50",
    "tracking=none",
    "trainer.precision=fp32",
)
"""Overrides of the default run that leave it a few seconds long."""

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("SUMMARIZER_CACHE")
    os.environ["SUMMARIZER_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    yield
    if before is None:
        del os.environ["SUMMARIZER_CACHE"]
    else:
        os.environ["SUMMARIZER_CACHE"] = before


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run `python -m summarizer.run` as a person does, in an empty folder."""

    def run(arguments: Sequence[str], **more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "summarizer.run", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            **more,  # type: ignore[call-overload]
        )

    return run
