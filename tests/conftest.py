"""What several layers' tests share: a cache folder of their own, and the command as a person runs it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from small_runs import TRAINED_ROWS, Command, run_here

pytest_plugins = ["headless"]

# Tests' models are tiny: a second thread only waits for the first, on busy cores ten times as long as it computes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Whatever starts the tests in the background has Ctrl-C ignored, and processes that tests start and stop by it
    # would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A new cache folder, empty at first: one for all processes where tests run in several."""
    before = os.environ.get("SUMMARIZER_CACHE")
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    cache.mkdir(exist_ok=True)
    os.environ["SUMMARIZER_CACHE"] = str(cache)
    yield
    if before is None:
        del os.environ["SUMMARIZER_CACHE"]
    else:
        os.environ["SUMMARIZER_CACHE"] = before


@pytest.fixture(autouse=True)
def _logging_of_its_own() -> Iterator[None]:
    """A run in this process sets levels and handlers as its config says; the next test finds what tests begin with.

    Set back before a test too, since a session's or a module's fixtures run such runs.
    """
    _reset_logging()
    yield
    _reset_logging()


def _reset_logging() -> None:
    ours = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "summarizer"]
    for logger in (logging.root, *map(logging.getLogger, ours)):
        logger.setLevel(logging.WARNING if logger is logging.root else logging.NOTSET)
        logger.disabled, logger.propagate = False, True
        for handler in list(logger.handlers):
            if not type(handler).__module__.startswith("_pytest."):
                logger.removeHandler(handler)


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


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, at a rate at which they show, with its own and the base's scores. Not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    run_here(
        [
            "data.rows.train=8",
            f"data.rows.validation={TRAINED_ROWS}",
            "prompt.max_tokens=160",
            "generation.max_new_tokens=6",
            "evaluation.bootstrap_samples=20",
            "evaluation.base=true",
            "evaluation.rows_during_training=0",
            "optimizer.lr=0.01",
            "tracking=none",
            "trainer.precision=fp32",
            "trainer.max_steps=2",
            f"hydra.run.dir={folder}",
        ]
    )
    return folder
