"""Sweep folders as real runs leave them, with invented numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from summarizer.config.paths import conf_folder
from summarizer.evaluation.record import VARIANTS, Interval
from summarizer.runs.record import RunRecord, TrainLoss, write_summary
from summarizer.sweeps.record import begin
from summarizer.tracking.metrics import MetricsFile

STEPS_PER_EPOCH = 20
EVERY = 5


def make_run(
    folder: Path,
    overrides: Sequence[str],
    *,
    end: float,
    steps: int = 40,
    untrained: float = 3.0,
    status: str | None = "completed",
    trainer: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
) -> None:
    """A run whose loss falls from 3 (`untrained` at step 0) towards `end`.

    steps: of 4 examples; 40 of them are the 2 epochs of the config. status: None for one without a summary.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = OmegaConf.to_container(OmegaConf.load(conf_folder() / "trainer" / "default.yaml"))
    assert isinstance(plain, dict)
    config = {
        "trainer": plain | {"batch_size": 4, "epochs": 2.0} | dict(trainer or {}),
        "data": {"streaming": False},
    }
    (folder / ".hydra").mkdir(exist_ok=True)
    OmegaConf.save(OmegaConf.create(config), folder / ".hydra" / "config.yaml")
    metrics = MetricsFile(folder / "metrics.jsonl")
    metrics.log(
        {"step": 0, "epoch": 0.0, "tokens": 0, "val/loss": untrained, "val/rouge1": 40 - 10 * untrained}
    )
    for step in range(1, steps + 1):
        loss = end + (3 - end) * math.exp(-step / 12)
        row: dict[str, float] = {
            "step": step,
            "epoch": round(step / STEPS_PER_EPOCH, 4),
            "tokens": 100 * step,
        }
        metrics.log(row | {"train/loss": loss + 0.15 * math.sin(1.7 * step + 90 * end)})
        if step % EVERY == 0:
            metrics.log(row | {"val/loss": loss, "val/rouge1": 40 - 10 * loss})
    if status is None:
        return
    ended_by = {"completed": "epochs", "stopped": "successive_halving", "failed": "error"}[status]
    score = Interval(30 - end, 28 - end, 32 - end)
    finished: dict[str, Any] = {
        "rouge": dict.fromkeys(VARIANTS, score),
        "split": "test",
        "rows": 50,
        "val_loss": end + 0.1,
    }
    values: dict[str, Any] = {
        "status": status,
        "ended_by": ended_by,
        "overrides": list(overrides),
        "seed": 0,
        "steps": steps,
        "epochs": steps / STEPS_PER_EPOCH,
        "tokens": 100 * steps,
        "wall_s": 12.5,
        "tokens_per_s": 8000.0 / 3,
        "trainable_parameters": 103168,
        "train_loss": TrainLoss(first=3.0, last=end),
        "model": "tiny",
        "quantization": "int8",
        "versions": {},
        **(finished if status == "completed" else {}),
        **(summary or {}),
    }
    write_summary(folder, RunRecord(**values))


def plan(sweep: Path, runs: Sequence[Sequence[str]], metric: str = "val/loss", first: int = 0) -> None:
    """Begin a sweep of these overrides; folders are numbers."""
    planned = [RunRecord(folder=str(first + i), overrides=tuple(run)) for i, run in enumerate(runs)]
    sweep.mkdir(parents=True, exist_ok=True)
    begin(sweep, planned, metric)


def end_of(dim: int, rate: float) -> float:
    """A loss with its minimum at dim 8 and rate 3e-4."""
    return 2.3 + 0.05 * abs(math.log2(dim / 8)) + 0.2 * abs(math.log10(rate / 3e-4))


GRID = [
    (f"adapter.dim={dim}", f"optimizer.lr={rate}")
    for dim in (2, 4, 8, 16)
    for rate in ("1e-4", "3e-4", "1e-3")
]


def make_grid(sweep: Path, failed: Sequence[int] = (), stopped: Sequence[int] = ()) -> None:
    """The twelve runs of dim and rate, with the run's number for its folder."""
    plan(sweep, [("data=sample", *overrides) for overrides in GRID])
    for number, overrides in enumerate(GRID):
        dim, rate = (float(override.partition("=")[2]) for override in overrides)
        end, folder, typed = end_of(int(dim), rate), sweep / str(number), ("data=sample", *overrides)
        if number in failed:
            error = "NonFiniteLossError: the loss of step 12 is nan"
            make_run(folder, typed, end=5.0, steps=12, status="failed", summary={"error": error})
        elif number in stopped:
            make_run(folder, typed, end=end, steps=10, status="stopped")
        else:
            make_run(folder, typed, end=end)
