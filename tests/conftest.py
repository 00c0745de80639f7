"""What several layers' tests share: a cache folder of their own, and the command as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from small_runs import Command


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("SUMMARIZER_CACHE")
    os.environ["SUMMARIZER_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["SUMMARIZER_CACHE"]
    else:
        os.environ["SUMMARIZER_CACHE"] = before


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
