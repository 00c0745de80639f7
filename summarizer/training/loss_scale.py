"""Loss scaling for fp16 products, right for every trial of a group: each has its own scale and overflow check.

fp16 holds nothing below 6e-8, and gradients of activations are smaller than that. So the loss is multiplied by
a large number before the backward pass and the gradients are divided by it after; where that overflows, the
trial's step is skipped and its scale halved. Source: Micikevicius et al. 2017 (arXiv:1710.03740), with the
numbers of torch.amp.GradScaler. That class has one scale for all optimizers: one trial's overflow would lower
every trial's scale, so that a trial in a group would not train as it does alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from summarizer import compat
from summarizer.data.batches import moved
from summarizer.training.trial import TrainerState, Trial

GROWTH, BACKOFF, GROWTH_INTERVAL_STEPS = 2.0, 0.5, 2000
"""torch.amp.GradScaler's defaults; so is TrainerState.loss_scale's first value, 2**16."""
SMALLEST_SCALE = 1.0
"""Below it scaling does harm: the gradients themselves pass fp16's largest number, 65,504."""


@runtime_checkable
class LossScaling(Protocol):
    """What the loop asks in every precision."""

    def scaled(self, losses: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """What to back-propagate: the sum over trials of each loss times the trial's scale."""
        ...

    def unscale(self) -> Bool[Tensor, " n"]:
        """Divide each trial's gradients by its scale, in place; which trials have one that is not finite.

        Once a step, after the gradients of all microbatches and processes are summed.
        """
        ...

    def update(self, overflowed: Bool[Tensor, " n"]) -> list[bool]:
        """Set each trial's scale for its next step. Returns which trials must skip this one."""
        ...

    def metrics(self, trial: Trial) -> dict[str, float]:
        """What to log beside the trial's loss."""
        ...

    def unrecoverable(self, trial: Trial) -> bool:
        """Whether its gradients are not finite however small its loss is scaled."""
        ...


class NoScaling:
    """For bf16 and fp32, whose numbers reach as low as the gradients do. Nothing waits for the device."""

    def __init__(self, trials: Sequence[Trial], device: torch.device) -> None:
        self._trials, self._device = trials, device

    def scaled(self, losses: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        return losses.sum()

    def unscale(self) -> Bool[Tensor, " n"]:
        return torch.zeros(len(self._trials), dtype=torch.bool, device=self._device)

    def update(self, overflowed: Bool[Tensor, " n"]) -> list[bool]:
        return [False] * len(self._trials)

    def metrics(self, trial: Trial) -> dict[str, float]:
        return {}

    def unrecoverable(self, trial: Trial) -> bool:
        return False


class ScalePerTrial:
    """For fp16. The scales live in each trial's `state`, hence in its checkpoints.

    `update` reads the overflows from the device: the one wait of a step, as GradScaler has it.
    """

    def __init__(self, trials: Sequence[Trial], device: torch.device) -> None:
        self._trials = trials
        self._device = device

    @property
    def scales(self) -> Float[Tensor, " n"]:
        return moved(torch.tensor([trial.state.loss_scale for trial in self._trials]), self._device)

    def scaled(self, losses: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        return (losses * self.scales).sum()

    def unscale(self) -> Bool[Tensor, " n"]:
        inverse = self.scales.reciprocal()  # exact: scales are powers of two
        overflowed = torch.zeros_like(inverse)
        for index, trial in enumerate(self._trials):
            own = [p.grad for p in trial.parameters.values() if p.grad is not None]
            here = slice(index, index + 1)
            compat.unscale_(own, overflowed[here], inverse[here])
        return overflowed > 0

    def update(self, overflowed: Bool[Tensor, " n"]) -> list[bool]:
        skipping: list[bool] = overflowed.tolist()
        for trial, skips in zip(self._trials, skipping, strict=True):
            note_step(trial.state, overflowed=skips)
            if skips:
                trial.say(
                    logging.INFO,
                    "step %d is skipped: a gradient overflows fp16; the loss scale is now %g",
                    *(trial.state.step + 1, trial.state.loss_scale),
                )
        return skipping

    def metrics(self, trial: Trial) -> dict[str, float]:
        state = trial.state
        return {"train/loss_scale": state.loss_scale, "train/skipped_steps": float(state.skipped_steps)}

    def unrecoverable(self, trial: Trial) -> bool:
        return trial.state.loss_scale < SMALLEST_SCALE


def note_step(state: TrainerState, *, overflowed: bool) -> None:
    """Halve the scale on an overflow, double it after GROWTH_INTERVAL_STEPS steps in a row without one.

    Source: torch.amp.GradScaler.update, which keeps a scale whose double would not be a finite fp32 number.
    """
    if overflowed:
        state.loss_scale *= BACKOFF
        state.clean_steps = 0
        state.skipped_steps += 1
        return
    state.clean_steps += 1
    if state.clean_steps == GROWTH_INTERVAL_STEPS:
        state.clean_steps = 0
        if state.loss_scale * GROWTH <= torch.finfo(torch.float32).max:
            state.loss_scale *= GROWTH


def build_scaling(precision: str, trials: Sequence[Trial], device: torch.device) -> LossScaling:
    """precision: of the products: fp16, bf16 or fp32.  trials: the group's own list, which changes with it."""
    return ScalePerTrial(trials, device) if precision == "fp16" else NoScaling(trials, device)
