"""A run small enough for a test, and where the tests find things."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

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

TRAINED_ROWS = 4
"""Validation rows of the fixture `trained_run`."""

KILL_IN = """
import os, signal, sys
import summarizer.training.checkpoint as checkpoint

real, calls = checkpoint.{function}, 0

def killing(*arguments):
    global calls
    calls += 1
    if calls == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)

checkpoint.{function} = killing
from summarizer.run import main
main()
"""
"""A run that is killed at the nth call of a function that writes checkpoints."""

KILLED_WITHIN_A_LINE = """
import os, signal, sys
from summarizer.generation.summary_file import SummaryFile

real, calls = SummaryFile.append, 0

def killing(self, summary):
    global calls
    calls += 1
    if calls == {call}:
        os.write(self._handle, summary.line().encode()[:40])
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, summary)

SummaryFile.append = killing
sys.argv[1:] = {arguments}
from summarizer.{command} import main
main()
"""
"""`summarize` or `evaluate`, killed while it writes the nth summary of its output."""

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"

Command = Callable[..., subprocess.CompletedProcess[str]]
"""`python -m summarizer.run` with these arguments: the fixture `command`."""


def run_here(arguments: Sequence[str]) -> None:
    """`python -m summarizer.run` in this process, which has imported what takes a new one seconds."""
    import summarizer.run

    before = sys.argv
    sys.argv = ["run", *arguments]
    try:
        assert summarizer.run.command(list(arguments)) == 0
    finally:
        sys.argv = before


def measure_of(study: Path) -> ModuleType:
    """The module measure.py of a study, which is no package, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"{study.name}_study", study / "measure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
