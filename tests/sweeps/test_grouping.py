"""Which runs train together: those that differ in nothing but what each trial has of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from summarizer.sweeps.compose import group_key, grouped

CONFIG: Mapping[str, Any] = {
    "seed": 0,
    "model": {"name_or_path": "embedded:tiny_gptj"},
    "quantization": {"format": "int8", "embedding_format": None},
    "adapter": {"_target_": "summarizer.adapters.lora.Lora", "dim": 2},
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
    "data": {"rows": {"train": 8}},
    "trainer": {
        "batch_size": 2,
        "schedule": {"name": "constant"},
        "max_grad_norm": 1.0,
        "epochs": 3,
        "max_steps": None,
        "early_stopping": {"patience": None},
        "best_metric": "val/loss",
    },
    "sweep": {"max_concurrent_trials": "auto", "stopping": None},
    "tracking": {"name": None},
    "plan": False,
}


def changed(key: str, value: object) -> dict[str, Any]:
    """The config with one value changed; it must be there."""
    group, _, name = key.partition(".")
    assert group in CONFIG
    assert not name or name in CONFIG[group]
    return {**CONFIG, group: {**CONFIG[group], name: value} if name else value}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("adapter.dim", 4),
        ("adapter._target_", "summarizer.adapters.other.Other"),
        ("optimizer.lr", 0.2),
        ("optimizer._target_", "torch.optim.AdamW"),
        ("tracking.name", "mine"),
        ("trainer.schedule", {"name": "cosine"}),
        ("trainer.max_grad_norm", None),
        ("trainer.epochs", 1),
        ("trainer.max_steps", 5),
        ("trainer.early_stopping", {"patience": 2}),
    ],
)
def test_what_a_trial_has_of_its_own(key: str, value: object) -> None:
    assert group_key(changed(key, value)) == group_key(CONFIG)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.name_or_path", "elsewhere"),
        ("quantization.format", "nf4"),
        ("quantization.embedding_format", "none"),
        ("data.rows", {"train": 9}),
        ("trainer.batch_size", 4),
        ("trainer.best_metric", "val/rouge1"),
        ("sweep.max_concurrent_trials", 2),
        ("sweep.stopping", "successive_halving"),
        ("plan", True),
    ],
)
def test_what_a_group_has_in_common(key: str, value: object) -> None:
    assert group_key(changed(key, value)) != group_key(CONFIG)


def test_groups_are_in_the_order_of_their_first_run() -> None:
    assert grouped("baabcb") == [[0, 3, 5], [1, 2], [4]]
    assert grouped("") == []
