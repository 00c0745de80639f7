"""Small grids of runs, trained as a group and each alone, and what must be equal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from config.composing import composed
from safetensors.torch import load_file
from small_runs import TINY

from summarizer.config.plain import to_plain
from summarizer.runs.experiment import run_group
from summarizer.runs.record import RunRecord, read_summary
from summarizer.tracking.metrics import read_metrics
from summarizer.training import trainer
from summarizer.training.step import Group

GRID = (
    ("adapter.dim=2", "optimizer=adamw", "optimizer.lr=1e-3", "seed=0"),
    ("adapter.dim=4", "optimizer=adamw", "optimizer.lr=3e-3", "seed=1"),
    ("adapter.dim=16", "optimizer=sgd", "optimizer.lr=1e-1", "seed=0"),
    ("adapter.dim=2", "optimizer=adam8bit", "optimizer.lr=3e-3", "seed=1", "trainer.schedule.name=linear"),
)
COMMON = (
    *TINY,
    "trainer.batch_size=3",
    "trainer.epochs=2",
    "trainer.microbatch_size=2",
    "trainer.max_grad_norm=0.5",
    "trainer.schedule.warmup_steps=2",
    "trainer.evaluate_every_steps=2",
    "trainer.checkpoint_every_steps=1",
    "evaluation.rows=2",
)
TIMES = ("train/tokens_per_s", "train/mfu", "train/memory_bytes")


def job(folder: Path, *overrides: str) -> RunRecord:
    return RunRecord(
        config=to_plain(composed(*COMMON, *overrides)),
        folder=str(folder),
        overrides=overrides,
        sweep=folder.parent.name,
    )


def grid(folder: Path, *more: str, trials: Sequence[tuple[str, ...]] = GRID) -> list[RunRecord]:
    return [job(folder / str(number), *overrides, *more) for number, overrides in enumerate(trials)]


def numbers(folder: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in read_metrics(folder / "metrics.jsonl")
    ]


def assert_same_run(ours: Path, alone: Path) -> None:
    for row, expected in zip(numbers(ours), numbers(alone), strict=True):
        assert row == pytest.approx(expected, rel=2e-4, abs=1e-6)
    tensors, expected_tensors = (
        load_file(f / "adapter" / "adapter_model.safetensors") for f in (ours, alone)
    )
    assert tensors.keys() == expected_tensors.keys()
    for name, tensor in tensors.items():
        assert tensor.shape == expected_tensors[name].shape
        # Adam divides by the gradient's size: rounding in one near zero moves a value by up to its rate.
        assert (tensor - expected_tensors[name]).abs().mean() < 2e-4, name
    for file in ("validation.jsonl", "validation.base.jsonl"):
        assert (ours / "predictions" / file).read_bytes() == (alone / "predictions" / file).read_bytes()
    summary, expected_summary = read_summary(ours), read_summary(alone)
    assert summary.rouge == expected_summary.rouge
    assert summary.val_loss == pytest.approx(expected_summary.val_loss, rel=1e-4)
    same = ("status", "ended_by", "steps", "best_step", "epochs", "tokens", "trainable_parameters", "rows")
    assert [getattr(summary, name) for name in same] == [getattr(expected_summary, name) for name in same]


def train_one_by_one(folder: Path) -> Path:
    """The grid's folders, each trained by itself."""
    for alone in grid(folder):
        (ended,) = run_group([alone])
        assert ended.cause is None
    return folder


def assert_as_alone(
    ended: Sequence[RunRecord], one_by_one: Path, numbers: Sequence[int] = range(len(GRID))
) -> None:
    assert [run.cause for run in ended] == [None] * len(ended)
    for run, number in zip(ended, numbers, strict=True):
        assert_same_run(Path(run.folder), one_by_one / str(number))


def watched_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many trials took each step."""
    sizes: list[int] = []
    real = trainer.train_step

    def watching(group: Group, batches: Any) -> Any:
        sizes.append(len(group.trials))
        return real(group, batches)

    monkeypatch.setattr(trainer, "train_step", watching)
    return sizes
