"""Runs as wandb itself records them while it is offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import wandb

from summarizer.config.schema import TrackingConfig
from summarizer.tracking.names import run_name
from summarizer.tracking.tracker import SampleSummary
from summarizer.tracking.wandb_run import open_tracker

SPEC = TrackingConfig(
    mode="offline", project="p", entity=None, name=None, group=None, tags=[], log_adapter=False
)


def private_wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """wandb reads its environment once per process: its service starts in one that is set for the tests."""
    wandb.teardown()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        yield
        wandb.teardown()


def record(
    folder: Path,
    config: Mapping[str, Any],
    overrides: list[str],
    summary: Mapping[str, Any] | None,
    samples: list[SampleSummary],
    *,
    steps: int = 6,
    first_step: int = 1,
) -> Path:
    """The folder that wandb makes below `folder`. summary: None leaves the run without an end."""
    folder.mkdir(parents=True, exist_ok=True)
    tracker = open_tracker(
        SPEC, folder, name=run_name(overrides), group=None, config=config, resumed=first_step > 1
    )
    for step in range(first_step, first_step + steps):
        tracker.log({"train/loss": 5 / step, "epoch": step / 6}, step)
    tracker.log({"val/loss": 2.5, "val/rouge1": 20.0}, first_step + steps - 1)
    if samples:
        tracker.log_samples(first_step + steps - 1, samples)
    if summary is not None:
        status = summary["status"]
        tracker.finish(status, summary)
    wandb.teardown()  # what is in its queue is on disk when its service has ended
    (made,) = [path for path in folder.glob("wandb/offline-run-*") if path.is_dir()][-1:]
    return made
