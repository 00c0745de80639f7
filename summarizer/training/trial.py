"""One run's place in a group: its own parameters, optimizer, data order, records, and how far it has come."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from summarizer.config.schema import RunConfig
from summarizer.data.order import EncodedRow, TrainingRows
from summarizer.tracking.recorder import Recorder
from summarizer.tracking.utilization import ModelShape
from summarizer.training.course import Course
from summarizer.training.schedule import rate_factor

log = logging.getLogger(__name__)


@dataclass
class Reached:
    """How far a trial has come; a checkpoint holds it as JSON."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Non-padding tokens trained on, prompts included."""
    flops: int = 0
    """Of its whole group in the trial's steps, by `tracking.utilization`'s count."""
    train_s: float = 0.0
    """Seconds spent in training steps."""
    wall_s: float = 0.0
    """Seconds since the run began, without those between a stop and its resumption."""
    first_loss: float | None = None
    last_loss: float | None = None
    val_loss: float | None = None
    """Of the last evaluation, nats per summary token."""
    evaluated_step: int = 0
    last_value: float | None = None
    """Of `trainer.best_metric`, at the last evaluation."""
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


@dataclass(eq=False)
class Trial:
    """What belongs to one run and to no other of its group."""

    spec: RunConfig
    folder: Path
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    recorder: Recorder
    course: Course
    rows: TrainingRows
    shape: ModelShape
    """What its FLOPs depend on."""
    label: str = ""
    """What tells it from the others of its group, for a person; empty for a run alone."""
    number: int = 0
    """Of its line in the group's display."""
    reached: Reached = field(default_factory=Reached)
    best: dict[str, Tensor] | None = None
    """The parameters of the best evaluation so far, on the CPU."""
    saved_step: int | None = None
    """Of its newest checkpoint."""
    clock_s: float = field(default_factory=time.monotonic)
    """When this process took the trial up, or last added to `reached.wall_s`."""
    _batches: Iterator[list[EncodedRow]] | None = None
    _next_step: int = 0

    def next_batch(self) -> list[EncodedRow]:
        """The examples of its next step, over all processes; the same again if that step was not taken."""
        trainer, done = self.spec.trainer, self.reached.step
        if self._batches is None or self._next_step != done:
            self._batches = self.rows.batches(
                self.spec.seed,
                trainer.batch_size,
                done,
                shuffle=trainer.shuffle,
                group_by_length=trainer.group_by_length,
            )
        self._next_step = done + 1
        return next(self._batches)

    def say(self, level: int, message: str, *values: object) -> None:
        """Log what concerns this trial alone: it goes to its own run.log, and to the terminal with its label."""
        labeled = f"{self.label}: {message}" if self.label else message
        log.log(level, labeled, *values, extra={"run": str(self.folder)})

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

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        schedule = self.spec.trainer.schedule
        lr: float = self.spec.optimizer.lr
        return lr * rate_factor(schedule, self.reached.step + 1, self.course.total_steps)

    def take_step(self, *, skip: bool) -> None:
        """One optimizer step.

        skip: leave the parameters and the optimizer's state as they are, for gradients that overflowed.
        """
        if not skip:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate
            self.optimizer.step()
        self.reached.step += 1

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

    def record(self, values: Mapping[str, float], step: int) -> None:
        """Record metrics of a step, beside the epochs and the tokens trained on by then."""
        epoch = self.course.epoch_of(step)
        self.recorder.log({"step": step, "epoch": epoch, "tokens": self.reached.tokens, **values})
