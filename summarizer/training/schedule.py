"""When a trial is evaluated, saved and done, and its learning rate: functions of its own optimizer steps.

They are pure, so that a resumed run needs no state for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from summarizer.config.schema import ScheduleConfig, TrainerConfig

EndedBy = Literal["epochs", "max_steps", "early_stopping", "successive_halving", "request", "signal", "error"]
"""What ends the training of a run."""
ExitReason = Literal[EndedBy, "pause"]
"""Why a trial leaves its slot. `pause`: another gets the slot, and the trial may resume where it was."""


@dataclass(frozen=True)
class TrainingSchedule:
    total_steps: int
    steps_per_epoch: int | None
    """None for a streamed split, which does not know how long an epoch is."""
    evaluate_every_steps: int
    save_every_steps: int
    limit: Literal["epochs", "max_steps"]
    """Which of the config's limits `total_steps` is."""

    def evaluates_at(self, step: int) -> bool:
        return step > 0 and (step % self.evaluate_every_steps == 0 or step == self.total_steps)

    def evaluations_by(self, step: int) -> int:
        """How many evaluations lie at or before a step."""
        last = step == self.total_steps and step % self.evaluate_every_steps != 0
        return step // self.evaluate_every_steps + last

    def saves_at(self, step: int) -> bool:
        return step > 0 and step % self.save_every_steps == 0

    def epoch_of(self, step: int) -> float:
        """Epochs done; a streamed split counts none."""
        return round(step / self.steps_per_epoch, 4) if self.steps_per_epoch else 0.0


def training_schedule(trainer: TrainerConfig, steps_per_epoch: int | None) -> TrainingSchedule:
    """What a trainer's config asks for. steps_per_epoch: None where only reading to the end would tell."""
    total = total_steps(trainer, steps_per_epoch)
    return TrainingSchedule(
        total,
        steps_per_epoch,
        trainer.evaluate_every_steps or steps_per_epoch or total,
        trainer.checkpoint_every_steps or steps_per_epoch or total,
        "max_steps" if total == trainer.max_steps else "epochs",
    )


def total_steps(trainer: TrainerConfig, steps_per_epoch: int | None) -> int:
    """Optimizer steps that a config asks for: its epochs (a part of one in whole steps), or fewer by max_steps."""
    limits = [trainer.max_steps] if trainer.max_steps is not None else []
    if trainer.epochs is not None and steps_per_epoch is not None:
        limits.append(max(math.ceil(trainer.epochs * steps_per_epoch - 1e-9), 1))
    return min(limits)


def rate_factor(schedule: ScheduleConfig, step: int, total_steps: int) -> float:
    """The factor of optimizer.lr at optimizer step `step` (the first is 1) of `total_steps`.

    Rises linearly over the warm-up, whose last step has the full rate; then stays, or falls to `final_fraction`
    at the last step, along a line or half a cosine (Loshchilov & Hutter 2016, arXiv:1608.03983).
    """
    if step < schedule.warmup_steps:
        return step / schedule.warmup_steps
    if schedule.name == "constant":
        return 1.0
    span = max(total_steps - max(schedule.warmup_steps, 1), 1)
    done = min((step - max(schedule.warmup_steps, 1)) / span, 1.0)
    fall = done if schedule.name == "linear" else (1 - math.cos(math.pi * done)) / 2
    return 1.0 - fall * (1.0 - schedule.final_fraction)
