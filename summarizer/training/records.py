"""What the steps measured, as it reaches the trials' records: on a card one step behind the steps themselves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from summarizer.compat import compile_s
from summarizer.errors import NonFiniteLossError
from summarizer.tracking.environment import peak_memory_bytes
from summarizer.tracking.utilization import utilization
from summarizer.training.group import Group
from summarizer.training.step import Measured
from summarizer.training.trial import Trial


class StepRecords:
    """Takes each step's measurements in order. `catch_up` before anything that needs them, such as a checkpoint."""

    def __init__(self, group: Group, stepped: Callable[[Mapping[Trial, float], float], None]) -> None:
        """stepped: hears of each trial's loss after each step, and the tokens/s of all trials so far."""
        self.failed: dict[Trial, Exception] = {}
        """Trials whose loss is not finite, or whose step or record failed. They are not recorded any further."""
        self._group = group
        self._stepped = stepped
        self._waiting: Measured | None = None
        self._since_s: float | None = None
        self._compiled_s = compile_s()
        self._tokens, self._train_s = 0, 0.0

    def resume_clock(self) -> None:
        """Steps are timed from here: what went before, such as an evaluation, was none of theirs."""
        if self._waiting is None:
            self._since_s = time.perf_counter()

    def add(self, measured: Measured) -> None:
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
        now_s = time.perf_counter()
        assert self._since_s is not None
        compiled_s = compile_s()  # paid once, and no part of a step's rate
        seconds = now_s - self._since_s - (compiled_s - self._compiled_s)
        self._since_s, self._compiled_s = now_s, compiled_s
        group = self._group
        # The device's, hence of all trials together.
        mfu = utilization(sum(measured.flops), seconds, group.flops_per_s)
        self._tokens += sum(measured.tokens)
        self._train_s += seconds
        shown: dict[Trial, float] = {}
        memory_bytes = peak_memory_bytes(group.adapted.device)
        for index, trial in enumerate(measured.trials):
            step, loss = measured.steps[index], losses[index]
            error = measured.errors[index] or _divergence(measured, index, loss)
            if error is not None:
                self.failed.setdefault(trial, error)
            if trial in self.failed:
                continue
            reached = trial.reached
            reached.tokens += measured.tokens[index]
            reached.flops += sum(measured.flops)
            reached.first_loss = loss if reached.first_loss is None else reached.first_loss
            reached.last_loss = loss
            reached.train_s += seconds
            if step % trial.spec.trainer.log_every_steps == 0 or step == trial.course.total_steps:
                values = {
                    "train/loss": loss,
                    "train/lr": measured.rates[index],
                    "train/grad_norm": norms[index],
                    "train/tokens_per_s": measured.tokens[index] / seconds,
                    "train/mfu": mfu,
                    "train/memory_bytes": memory_bytes,
                    **measured.scaling[index],
                }
                self.record(trial, values, step)
            shown[trial] = loss
        self._stepped(shown, self._tokens / self._train_s)

    def record(self, trial: Trial, values: Mapping[str, float], step: int) -> None:
        """Record metrics of a trial, which fails where they cannot be written."""
        try:
            trial.record(values, step)
        except OSError as error:
            self.failed.setdefault(trial, error)


def _divergence(measured: Measured, index: int, loss: float) -> NonFiniteLossError | None:
    step = measured.steps[index]
    if not math.isfinite(loss):
        return NonFiniteLossError(
            f"the loss is {loss} at step {step} on rows {', '.join(measured.row_ids[index])}; "
            "the last checkpoint is as it was. A lower optimizer.lr or trainer.max_grad_norm usually helps"
        )
    if measured.hopeless[index]:
        return NonFiniteLossError(
            f"the gradients of step {step} are not finite in fp16, however small the loss is scaled; the last "
            "checkpoint is as it was. trainer.precision=fp32 helps if it was only the precision, a lower "
            "optimizer.lr or trainer.max_grad_norm if it was not"
        )
    return None
