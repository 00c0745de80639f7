"""One run's place in a group: its own parameters, optimizer, records, and how far it has come."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from summarizer.config.specs import RunSpec
from summarizer.tracking.recorder import Recorder
from summarizer.training.schedule import rate_factor


@dataclass
class Reached:
    """How far a trial has come; a checkpoint holds it as JSON."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Non-padding tokens trained on, prompts included."""
    flops: int = 0
    """Of its whole group in the trial's steps, by `tracking.utilisation`'s count."""
    train_s: float = 0.0
    """Seconds spent in training steps."""
    wall_s: float = 0.0
    """Seconds since the run began, without those between a stop and its resumption."""
    first_loss: float | None = None
    last_loss: float | None = None
    val_loss: float | None = None
    """Of the last evaluation, nats per summary token."""
    evaluated_step: int = 0
    best_value: float | None = None
    best_step: int | None = None
    evaluations_since_best: int = 0
    loss_scale: float = 2.0**16
    """What an fp16 run multiplies the loss by; a power of two. Other precisions leave it alone."""
    clean_steps: int = 0
    """Steps since the scale last changed."""
    skipped_steps: int = 0
    """Steps whose gradients overflowed."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Trial:
    """What belongs to one run and to no other of its group."""

    index: int
    spec: RunSpec
    folder: Path
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    recorder: Recorder
    reached: Reached = field(default_factory=Reached)
    best: dict[str, Tensor] | None = None
    """The parameters of the best evaluation so far, on the CPU."""
    clock_s: float = field(default_factory=time.monotonic)
    """When this process took the trial up, or last added to `reached.wall_s`."""

    def count_time(self) -> None:
        now_s = time.monotonic()
        self.reached.wall_s += now_s - self.clock_s
        self.clock_s = now_s

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def trainable_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    def update(self, step: int, total_steps: int, *, skip: bool) -> tuple[float, Tensor]:
        """Clip this trial's gradients by their own norm, take one optimizer step; the rate and the norm before.

        skip: leave the parameters and the optimizer's state as they are, for gradients that overflowed.
        """
        rate = self.spec.optimizer.lr * rate_factor(self.spec.trainer.schedule, step, total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        limit = self.spec.trainer.max_grad_norm
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), math.inf if limit is None else limit)
        if not skip:
            self.optimizer.step()
        return rate, norm

    def keep_best(self) -> None:
        self.best = {
            name: parameter.detach().to("cpu", copy=True) for name, parameter in self.parameters.items()
        }

    def restore_best(self) -> None:
        """Put the best evaluation's values back; without an evaluation the last values stay."""
        if self.best is not None:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(self.best[name])

    def record(self, values: dict[str, float], epoch: float, step: int) -> None:
        """Record metrics of a step, beside the tokens trained on by then."""
        self.recorder.log({"step": step, "epoch": epoch, "tokens": self.reached.tokens, **values})


def build_optimizer(spec: RunSpec, parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The config's optimizer over one trial's parameters. Raises ConfigError's causes as the library words them."""
    optimizer = spec.optimizer.build(list(parameters.values()))
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer
