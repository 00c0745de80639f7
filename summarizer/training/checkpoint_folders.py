"""Which checkpoints a run's folder holds, and of which steps, told from their names and digests: without torch."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from summarizer.digests import check_digests

STATE = "reached.json"
"""The `TrainerState`, under the name that it has had since the first version."""
NAME = re.compile(r"step-(\d{8,15})")


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, damaged ones among them, oldest first: each got its name once it was whole."""
    return sorted((path for path in folder.glob("step-*") if NAME.fullmatch(path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which it was saved."""
    return int(checkpoint.name.removeprefix("step-"))


def newest_step(folder: Path) -> int:
    """The optimizer step of the newest checkpoint that is not damaged; 0 without one."""
    for checkpoint in reversed(list_checkpoints(folder)):
        with suppress(OSError, ValueError):
            check_digests(checkpoint)
            return step_of(checkpoint)
    return 0
