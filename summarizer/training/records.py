"""What the steps measured, as it reaches the trials' records: on a card one step behind the steps themselves."""

from __future__ import annotations

import math
import time

from summarizer.errors import NonFiniteLossError
from summarizer.progress import Bar
from summarizer.tracking.environment import peak_memory_bytes
from summarizer.tracking.startup import compile_s
from summarizer.tracking.utilisation import utilisation
from summarizer.training.group import Group
from summarizer.training.step import Measured


class StepRecords:
    """Takes each step's measurements in order. `catch_up` before anything that needs them, such as a checkpoint."""

    def __init__(self, group: Group, total_steps: int, steps_per_epoch: int | None, progress: Bar) -> None:
        self._group = group
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._progress = progress
        self._waiting: Measured | None = None
        self._since_s: float | None = None
        self._compiled_s = compile_s()

    def resume_clock(self) -> None:
        """Steps are timed from here: what went before, such as an evaluation, was none of theirs."""
        if self._waiting is None:
            self._since_s = time.perf_counter()

    def add(self, measured: Measured) -> None:
        """Raises NonFiniteLossError where a loss turns out not to be finite: this step's, or the last one's."""
        behind, self._waiting = self._waiting, measured
        if behind is not None:
            self._record(behind)
        if measured.arrived is None:
            self.catch_up()

    def catch_up(self) -> None:
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._record(waiting)

    def _record(self, measured: Measured) -> None:
        losses, norms = measured.read()
        _require_finite(losses, measured)
        now_s = time.perf_counter()
        assert self._since_s is not None
        compiled_s = compile_s()  # paid once, and no part of a step's rate
        seconds = now_s - self._since_s - (compiled_s - self._compiled_s)
        self._since_s, self._compiled_s = now_s, compiled_s
        group, step = self._group, measured.step
        # The device's, hence of all trials together.
        mfu = utilisation(sum(measured.flops), seconds, group.flops_per_s)
        for index, trial in enumerate(group.trials):
            reached = trial.reached
            reached.tokens += measured.tokens[index]
            reached.flops += sum(measured.flops)
            reached.first_loss = losses[index] if reached.first_loss is None else reached.first_loss
            reached.last_loss = losses[index]
            reached.train_s += seconds
            if step % group.trainer.log_every_steps == 0 or step == self._total_steps:
                trial.record(
                    {
                        "train/loss": losses[index],
                        "train/lr": measured.rates[index],
                        "train/grad_norm": norms[index],
                        "train/tokens_per_s": measured.tokens[index] / seconds,
                        "train/mfu": mfu,
                        "train/memory_bytes": peak_memory_bytes(group.adapted.device),
                        **group.scaling.metrics(index),
                    },
                    epoch_of(step, self._steps_per_epoch),
                    step,
                )
        tokens = sum(trial.reached.tokens for trial in group.trials)
        rate = tokens / group.trials[0].reached.train_s
        self._progress.note(f"loss {sum(losses) / len(losses):.3f}, {rate:,.0f} tokens/s")
        self._progress.advance()


def epoch_of(step: int, steps_per_epoch: int | None) -> float:
    """Epochs done; a streamed split does not know how long one is, and counts none."""
    return round(step / steps_per_epoch, 4) if steps_per_epoch else 0.0


def _require_finite(losses: list[float], measured: Measured) -> None:
    for trial, loss in enumerate(losses):
        if not math.isfinite(loss):
            rows = ", ".join(measured.row_ids[trial])
            raise NonFiniteLossError(
                f"the loss is {loss} at step {measured.step} on rows {rows}; "
                "the last checkpoint is as it was. A lower optimizer.lr or trainer.max_grad_norm usually helps"
            )
