"""rsLoRA, LoRA+ and LoRA-FA beside LoRA in one group: each as it is alone, and what each leaves as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_groups import build_group, spec_of, train

from summarizer.config.schema import RunConfig
from summarizer.training.checkpoint import load_latest

KINDS = ("lora", "rslora", "lora_plus", "lora_fa")
STEPS = ("trainer.max_steps=3", "trainer.checkpoint_every_steps=1", "optimizer.lr=1e-3")


@pytest.fixture(scope="module")
def specs() -> list[RunConfig]:
    return [spec_of(f"adapter={kind}", *STEPS) for kind in KINDS]


@pytest.mark.slow
def test_each_trains_to_the_bit_as_it_does_alone(specs: list[RunConfig], tmp_path: Path) -> None:
    together = train(build_group(specs, tmp_path / "together"))
    losses = list(together.losses.values())
    for kind, spec, own, final in zip(KINDS, specs, losses, together.final.values(), strict=True):
        alone = train(build_group([spec], tmp_path / kind))
        assert own == next(iter(alone.losses.values())), kind
        for name, tensor in next(iter(alone.final.values())).items():
            assert torch.equal(final[name], tensor), f"{kind} {name}"
    assert len({tuple(own) for own in losses}) == len(KINDS)


def test_lora_fa_keeps_a_as_it_was_drawn_and_resumes_with_it(specs: list[RunConfig], tmp_path: Path) -> None:
    spec = specs[KINDS.index("lora_fa")]
    group = build_group([spec], tmp_path)
    (trial,) = group.trials
    drawn = {name: layer.trials[0]["a"].detach().clone() for name, layer in group.adapted.layers.items()}
    assert all(layer.stacks[0].tensors["a"].grad is None for layer in group.adapted.layers.values())
    assert trial.trainable_parameters == sum(
        layer.trials[0]["b"].numel() for layer in group.adapted.layers.values()
    )
    train(group)
    again = build_group([spec], tmp_path)
    load_latest(again.trials[0])
    for name, layer in again.adapted.layers.items():
        assert torch.equal(layer.trials[0]["a"], drawn[name])
        assert torch.equal(layer.trials[0]["b"], trial.parameters[f"{name}.b"])
        assert layer.trials[0]["b"].any()


def test_lora_plus_has_two_rates(tmp_path: Path) -> None:
    """The first step of Adam moves each number by its rate, whatever its gradient."""
    spec = spec_of("adapter=lora_plus", "trainer.max_steps=1", "optimizer.lr=1e-4", "optimizer=adamw")
    group = build_group([spec], tmp_path)
    head = group.adapted.layers["lm_head"].trials[0]
    train(group)
    moved = head["b"].detach().abs()
    assert moved.max() == pytest.approx(16e-4, rel=1e-3)
