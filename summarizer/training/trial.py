"""A live trial: one run of a group, from waiting for a slot to the end of its training.

A trial lives as long as its group. Its adapter, its optimizer and its best values are there only while it has a
slot; between two slots they lie in its checkpoint.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from summarizer.config.schema import RunConfig
from summarizer.data.order import EncodedRow, TrainingRows
from summarizer.tracking.metrics import EndStatus, Recorder, no_recorder
from summarizer.tracking.utilization import ModelShape
from summarizer.training.schedule import TrainingSchedule, rate_factor

log = logging.getLogger(__name__)


@dataclass
class TrainerState:
    """How far a trial has come; a checkpoint holds it as JSON."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # for one that is read back

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Non-padding tokens trained on, prompts included."""
    flops: int = 0
    """FLOPs of the whole group in the trial's steps, by `tracking.utilization`'s count."""
    train_s: float = 0.0
    """Seconds spent in training steps."""
    wall_s: float = 0.0
    """Seconds since the run began, without those between a stop and its resumption."""
    first_loss: float | None = None
    last_loss: float | None = None
    val_loss: float | None = None
    """The loss of the last evaluation, in nats per summary token."""
    evaluated_step: int = 0
    last_value: float | None = None
    """The value of `trainer.best_metric` at the last evaluation."""
    best_value: float | None = None
    best_step: int | None = None
    evaluations_since_best: int = 0
    loss_scale: float = 2.0**16
    """What an fp16 run multiplies the loss by; a power of two. Other precisions leave it alone."""
    clean_steps: int = 0
    """Steps since the scale last changed."""
    skipped_steps: int = 0
    """Steps whose gradients overflowed."""


@dataclass(eq=False)
class Trial:
    """What belongs to one run and to no other of its group."""

    spec: RunConfig
    folder: Path
    label: str = ""
    """What tells it from the others of its group, for a person; empty for a run alone."""
    number: int = 0
    """Its place among the runs of its group, and of its line in the display."""
    resumed: bool = False
    """Whether an earlier process began it."""
    schedule: TrainingSchedule = field(init=False)
    """Known once the data is."""
    rows: TrainingRows = field(init=False)
    recorder: Recorder = field(default_factory=no_recorder)
    state: TrainerState = field(default_factory=TrainerState)
    status: EndStatus | None = None
    """None while it waits or trains."""
    stop_at: int | None = None
    """The step at which somebody asked for its end while it trained."""
    begun: bool = False
    """Whether it has, or had, a slot in this process."""

    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    optimizer: torch.optim.Optimizer | None = None
    shape: ModelShape | None = None
    """What the FLOPs of its training depend on; None before its first slot."""
    trainable_parameters: int = 0
    best: dict[str, Tensor] | None = None
    """The parameters of the best evaluation so far, on the CPU."""
    saved_step: int | None = None
    """The step of its newest checkpoint."""
    clock_s: float = field(default_factory=time.monotonic)
    """When this process took the trial up, or last added to `state.wall_s`."""
    _batches: Iterator[list[EncodedRow]] | None = None
    _next_step: int = 0

    def take_slot(
        self, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, shape: ModelShape
    ) -> None:
        """Begin anew with an adapter that the model has just been given; a checkpoint may be loaded over it."""
        self.parameters, self.optimizer, self.shape = parameters, optimizer, shape
        self.trainable_parameters = sum(parameter.numel() for parameter in parameters.values())
        self.state, self.best, self.saved_step = TrainerState(), None, None
        self.clock_s, self._batches, self._next_step = time.monotonic(), None, 0

    def leave_slot(self) -> None:
        """Let go of all tensors, and with them of the stacks that the parameters lie in."""
        self.parameters, self.optimizer, self.best, self._batches = {}, None, None, None

    def next_batch(self) -> list[EncodedRow]:
        """The examples of its next step, over all processes; the same again if that step was not taken."""
        trainer, done = self.spec.trainer, self.state.step
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

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        lr: float = self.spec.optimizer.lr
        return lr * rate_factor(self.spec.trainer.schedule, self.state.step + 1, self.schedule.total_steps)

    @property
    def gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

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

    def count_time(self) -> None:
        now_s = time.monotonic()
        self.state.wall_s += now_s - self.clock_s
        self.clock_s = now_s

    def record(self, values: Mapping[str, float], step: int) -> None:
        """Record metrics of a step, beside the epochs and the tokens trained on by then."""
        epoch = self.schedule.epoch_of(step)
        self.recorder.log({"step": step, "epoch": epoch, "tokens": self.state.tokens, **values})

    def has_recorded(self, row: Mapping[str, Any]) -> bool:
        """Whether a record of an earlier process is one that the trial, where it is now, would have made."""
        step, done = int(row["step"]), self.state.step
        if not 0 < done >= step:  # step 0 is the base model's evaluation, which is done anew
            return False
        if "val/loss" in row:
            return step <= self.state.evaluated_step
        return (
            step < done or step % self.spec.trainer.log_every_steps == 0 or step == self.schedule.total_steps
        )

    def say(self, level: int, message: str, *values: object) -> None:
        """Log what concerns this trial alone: it goes to its own run.log, and to the terminal with its label."""
        labeled = f"{self.label}: {message}" if self.label else message
        log.log(level, labeled, *values, extra={"run": str(self.folder)})
