"""A run small enough for a test, and where the tests find things."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

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

Command = Callable[..., subprocess.CompletedProcess[str]]
"""`python -m summarizer.run` with these arguments: the fixture `command`."""
