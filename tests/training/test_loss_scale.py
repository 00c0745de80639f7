"""fp16 products with a loss scale for each trial, against fp32, torch's GradScaler and a trial alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_groups import spec_of
from transformers import GPTJConfig, GPTJForCausalLM

from summarizer.adapters.attach import AdaptedModel, attach
from summarizer.config.schema import ModelConfig
from summarizer.data.order import EncodedRow
from summarizer.models.load import load_base
from summarizer.quantization.frozen import FrozenLinear, FrozenWeight
from summarizer.tracking.utilization import shape_of
from summarizer.training.checkpoint import load_latest, save_checkpoint
from summarizer.training.loss_scale import (
    GROWTH_INTERVAL_STEPS,
    LossScaling,
    NoScaling,
    ScalePerTrial,
    build_scaling,
    note_step,
)
from summarizer.training.optimizer import Scratch, build_optimizer
from summarizer.training.schedule import training_schedule
from summarizer.training.step import clip_gradients
from summarizer.training.trial import TrainerState, Trial

CPU = torch.device("cpu")
DIMS_AND_RATES = ((2, "1e-3"), (5, "3e-3"), (3, "1e-2"))


VOCABULARY = 96


class NoRows:
    """Its trials are given what they train on."""

    def batches(self, *_: object, **__: object) -> Iterator[list[EncodedRow]]:
        raise NotImplementedError

    def steps_per_epoch(self, batch_size: int) -> int | None:
        return None


@dataclass
class Group:
    adapted: AdaptedModel
    trials: list[Trial]


def group_of(count: int, folder: Path, loss_scale: float = 2.0**12) -> Group:
    """Trials that differ in dim, rate and seed, over a tiny GPT-J; no adapter tensor is zero.

    A loss of few tokens is scaled by less than a run begins with, so that no step is skipped.
    """
    torch.manual_seed(0)
    config = GPTJConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4)
    GPTJForCausalLM(config).save_pretrained(folder / "base")
    model = ModelConfig(name_or_path=str(folder / "base"), revision=None, completion_token=None)
    specs = [
        spec_of(f"adapter.dim={dim}", f"optimizer.lr={rate}", f"seed={seed}", "optimizer=adamw")
        for seed, (dim, rate) in enumerate(DIMS_AND_RATES[:count])
    ]
    base = load_base(model, specs[0].quantization, CPU).model
    adapted = attach(base, [spec.adapter for spec in specs], [spec.seed for spec in specs])
    trials = []
    for index, spec in enumerate(specs):
        own = adapted.parameters_of(index)
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for parameter in own.values():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        trial = Trial(spec, folder / str(index))
        trial.schedule, trial.rows = training_schedule(spec.trainer, 50), NoRows()
        trial.take_slot(own, build_optimizer(spec, own, Scratch()), shape_of(adapted, index))
        trial.state = TrainerState(loss_scale=loss_scale)
        trials.append(trial)
    return Group(adapted, trials)


def token_ids(step: int, trials: Sequence[int]) -> Tensor:
    generators = [torch.Generator().manual_seed(99 * step + trial) for trial in trials]
    return torch.stack([torch.randint(0, VOCABULARY, (24,), generator=g) for g in generators])


def losses_of(group: Group, ids: Tensor, precision: str) -> Tensor:
    """Mean loss of each trial on one row of its own."""
    with torch.autocast("cpu", torch.float16) if precision == "fp16" else nullcontext():
        logits = group.adapted.model.logits(ids)
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none"
    )
    return losses.mean(dim=1)


def gradients(
    group: Group, scaling: LossScaling, precision: str, factor: Tensor | None = None
) -> list[Tensor]:
    """Each trial's gradients as one vector, after unscaling. factor: of each trial's loss."""
    group.adapted.zero_grad()
    losses = losses_of(group, token_ids(0, range(len(group.trials))), precision)
    scaling.scaled(losses if factor is None else losses * factor).backward()
    assert not scaling.unscale().any()
    return [
        torch.cat([p.grad.flatten() for p in trial.parameters.values() if p.grad is not None])
        for trial in group.trials
    ]


def train(group: Group, steps: int, precision: str, trials: Sequence[int]) -> list[list[float]]:
    """What the loop does of it. trials: whose rows each of the group's trials reads."""
    scaling = build_scaling(precision, group.trials, CPU)
    seen = []
    for step in range(1, steps + 1):
        losses = losses_of(group, token_ids(step, trials), precision)
        scaling.scaled(losses).backward()
        skips = scaling.update(scaling.unscale())
        for trial, skip in zip(group.trials, skips, strict=True):
            limits = [trial.spec.trainer.max_grad_norm]
            clip_gradients([[p.grad for p in trial.parameters.values() if p.grad is not None]], limits)
            assert trial.optimizer is not None
            trial.optimizer.param_groups[0]["lr"] = trial.rate
            if not skip:
                trial.optimizer.step()
            trial.state.step += 1
        group.adapted.zero_grad()
        seen.append(losses.tolist())
    return seen


def values(group: Group, trial: int) -> Tensor:
    return torch.cat([p.detach().flatten() for p in group.trials[trial].parameters.values()])


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_the_scale_moves_as_gradscaler_moves_it() -> None:
    overflows = [True, True, False, True] + [False] * GROWTH_INTERVAL_STEPS
    overflows += [False] * (GROWTH_INTERVAL_STEPS - 1) + [True] + [False] * (GROWTH_INTERVAL_STEPS + 1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter])
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.zeros(1))
    reached = TrainerState()
    assert reached.loss_scale == scaler.get_scale() == 2.0**16
    seen = set()
    for step, overflowed in enumerate(overflows):
        parameter.grad = torch.full((1,), float("inf") if overflowed else 1.0)
        scaler.unscale_(optimizer)
        scaler.update()
        note_step(reached, overflowed=overflowed)
        assert reached.loss_scale == scaler.get_scale(), step
        assert reached.clean_steps == scaler.state_dict()["_growth_tracker"], step
        seen.add(reached.loss_scale)
    assert seen == {2.0**13, 2.0**14, 2.0**15}
    assert reached.skipped_steps == 4


def test_a_scale_grows_no_further_than_fp32_goes() -> None:
    reached = TrainerState(loss_scale=2.0**127, clean_steps=GROWTH_INTERVAL_STEPS - 1)
    note_step(reached, overflowed=False)
    assert (reached.loss_scale, reached.clean_steps) == (2.0**127, 0)


def test_each_trial_is_divided_by_its_own_and_checked_by_itself(tmp_path: Path) -> None:
    group = group_of(3, tmp_path)
    scaling = ScalePerTrial(group.trials, CPU)
    scales = [2.0**16, 2.0**10, 2.0]
    for trial, scale in zip(group.trials, scales, strict=True):
        trial.state.loss_scale = scale
        for parameter in trial.parameters.values():
            assert parameter.grad is not None
            parameter.grad.fill_(3.0 * scale)
    assert (
        scaling.scaled(torch.tensor([1.0, 10.0, 100.0])).item()
        == scales[0] + 10 * scales[1] + 100 * scales[2]
    )
    assert scaling.unscale().tolist() == [False] * 3
    for trial in group.trials:
        for parameter in trial.parameters.values():
            assert parameter.grad is not None
            assert (parameter.grad == 3.0).all()
    last = list(group.trials[1].parameters.values())[-1].grad
    assert last is not None
    for bad in (float("nan"), float("inf"), -float("inf")):
        last[-1, -1] = bad
        assert scaling.unscale().tolist() == [False, True, False]


def test_gradients_are_those_of_fp32_even_where_fp16_alone_loses_them(tmp_path: Path) -> None:
    group = group_of(3, tmp_path)
    # One trial's loss is small: so are its gradients, and fp16 holds nothing below 6e-8.
    factor = torch.tensor([1.0, 1e-4, 1.0])
    exact = gradients(group, NoScaling(group.trials, CPU), "fp32", factor)
    bare = gradients(group, NoScaling(group.trials, CPU), "fp16", factor)
    scaled = gradients(group, ScalePerTrial(group.trials, CPU), "fp16", factor)
    assert [distance(a, b) for a, b in zip(scaled, exact, strict=True)] == pytest.approx([0, 0, 0], abs=5e-3)
    assert distance(bare[1], exact[1]) > 5e-2
    assert not torch.equal(scaled[0], exact[0]), "the products were in fp16"


def test_a_group_in_fp16_trains_as_in_fp32(tmp_path: Path) -> None:
    in_fp32, in_fp16 = group_of(3, tmp_path / "fp32"), group_of(3, tmp_path / "fp16")
    start = [values(in_fp32, trial) for trial in range(3)]
    exact = train(in_fp32, 6, "fp32", range(3))
    half = train(in_fp16, 6, "fp16", range(3))
    for a, b in zip(half, exact, strict=True):
        assert a == pytest.approx(b, rel=2e-3)
    for trial in range(3):
        moved = values(in_fp32, trial) - start[trial]
        assert distance(values(in_fp16, trial) - start[trial], moved) < 0.1
        assert in_fp16.trials[trial].state.skipped_steps == 0
        assert in_fp16.trials[trial].state.clean_steps == 6


def test_an_overflow_skips_the_steps_of_its_trial_alone(tmp_path: Path) -> None:
    group, calm = group_of(3, tmp_path / "group"), group_of(3, tmp_path / "calm")
    driven = group.trials[1]
    driven.state.loss_scale = 2.0**40
    start = values(group, 1)
    losses = train(group, 3, "fp16", range(3))
    expected = train(calm, 3, "fp16", range(3))
    assert torch.equal(values(group, 1), start), "not one step was taken"
    assert driven.optimizer is not None
    assert not driven.optimizer.state, "and the optimizer never heard of them"
    assert (driven.state.skipped_steps, driven.state.loss_scale) == (3, 2.0**37)
    for other in (0, 2):
        assert torch.equal(values(group, other), values(calm, other))
        assert group.trials[other].state == calm.trials[other].state
        assert [row[other] for row in losses] == [row[other] for row in expected]
    assert ScalePerTrial(group.trials, CPU).metrics(driven) == {
        "train/loss_scale": 2.0**37,
        "train/skipped_steps": 3.0,
    }


def test_a_trial_scales_in_a_group_as_it_does_alone(tmp_path: Path) -> None:
    """GradScaler's one scale would be halved by the neighbor."""
    pair, alone = group_of(2, tmp_path / "pair"), group_of(1, tmp_path / "alone")
    pair.trials[1].state.loss_scale = 2.0**40
    together = train(pair, 4, "fp16", (0, 1))
    by_itself = train(alone, 4, "fp16", (0,))
    assert [row[0] for row in together] == pytest.approx([row[0] for row in by_itself], rel=1e-3)
    assert pair.trials[0].state == alone.trials[0].state


def test_gradients_that_no_scale_helps_end_the_run(tmp_path: Path) -> None:
    group = group_of(1, tmp_path, loss_scale=2.0**16)
    scaling = ScalePerTrial(group.trials, CPU)
    overflowed = torch.tensor([True])
    for _ in range(16):
        assert scaling.update(overflowed) == [True]
        assert not scaling.unrecoverable(group.trials[0])
    scaling.update(overflowed)
    assert scaling.unrecoverable(group.trials[0])


def test_other_precisions_are_left_alone(tmp_path: Path) -> None:
    group = group_of(2, tmp_path)
    for precision in ("bf16", "fp32"):
        scaling = build_scaling(precision, group.trials, CPU)
        before = [asdict(trial.state) for trial in group.trials]
        assert scaling.scaled(torch.tensor([1.0, 2.0])).item() == 3.0
        assert scaling.update(scaling.unscale()) == [False, False]
        assert scaling.metrics(group.trials[0]) == {}
        assert [asdict(trial.state) for trial in group.trials] == before


def test_a_checkpoint_holds_the_scale(tmp_path: Path) -> None:
    trial = group_of(1, tmp_path, loss_scale=2.0**16).trials[0]
    trial.folder.mkdir()
    trial.state.step = 7
    note_step(trial.state, overflowed=True)
    note_step(trial.state, overflowed=False)
    save_checkpoint(trial)
    fresh = group_of(1, tmp_path).trials[0]
    load_latest(fresh)
    assert (fresh.state.loss_scale, fresh.state.clean_steps, fresh.state.skipped_steps) == (
        2.0**15,
        1,
        1,
    )
    older = json.loads(json.dumps({"step": 3}))
    assert TrainerState(**older).loss_scale == 2.0**16, "checkpoints of before loss scales can be read"


@pytest.mark.parametrize("name", ["none", "int8", "blockwise8", "nf4"])
def test_frozen_products_pass_fp16s_largest_number_no_sooner_than_their_result(name: str) -> None:
    """Sums of 4096 products with whole int8 numbers would reach 2e6."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(16, 4096, generator=generator) * 0.02
    weight = FrozenWeight(name, (16, 4096))
    weight.load(weight.format.quantize(dense))
    layer = FrozenLinear(weight, bias=False)
    x = (torch.rand(3, 4096, generator=generator) * 8).requires_grad_()
    exact = layer(x)
    (exact_grad,) = torch.autograd.grad(exact.sum() * 100, x)
    with torch.autocast("cpu", torch.float16):
        half = layer(x)
    (half_grad,) = torch.autograd.grad(half.float().sum() * 100, x)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, rtol=3e-3, atol=0.2)
    torch.testing.assert_close(half_grad, exact_grad, rtol=3e-3, atol=0.2)
