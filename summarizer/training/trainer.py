"""The training loop. It trains a group of trials over one base model; a run alone is a group of one.

boundary: evaluate and save the trials that are due; those that have ended leave their slots
admit:    waiting trials take the slots that are free
step:     one forward and backward pass for all trials, then each trial's optimizer by itself
record:   what the step measured, on a GPU one step behind the steps themselves
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from summarizer.compat import compile_s
from summarizer.data.order import EncodedRow
from summarizer.errors import NonFiniteLossError, StopRequested
from summarizer.tracking.environment import peak_memory_bytes
from summarizer.tracking.startup import Stopwatch
from summarizer.tracking.utilization import devices_rate, training_flops, utilization
from summarizer.training.checkpoint import save_checkpoint
from summarizer.training.optimizer import LR_RATIO
from summarizer.training.schedule import EndedBy, ExitReason
from summarizer.training.step import Group, backpropagate, clip_gradients, lengths_of, summary_tokens
from summarizer.training.stopping import StopSignal
from summarizer.training.trial import Trial

log = logging.getLogger(__name__)


# ---- whose runs are trained --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exit:
    """Why a trial leaves its slot."""

    by: ExitReason
    """`error`: the loss was not finite, or the trial could not be saved or stepped."""
    error: Exception | None = None


@runtime_checkable
class Callbacks(Protocol):
    """What the loop asks of those whose runs it trains, and tells them."""

    def admit(self, free: int | None) -> list[Trial]:
        """Trials that take a slot now, at most `free` (None: as many as there are), given to the model already."""

    def requested(self) -> list[Trial]:
        """Take what was asked for since the last step. Returns trials to be saved: others begin from them."""

    def evaluate(self, trials: Sequence[Trial]) -> list[dict[str, float]]:
        """Validation metrics of each trial, by name. Raises StopRequested where a signal cuts it short."""

    def in_words(self, metrics: Mapping[str, float]) -> str:
        """Such metrics as a line of the log has them."""

    def evaluated(self, trials: Sequence[Trial], continuing: Sequence[Trial]) -> list[Trial]:
        """Which of those that would continue are to give their slot to others."""

    def on_leave(self, trials: Mapping[Trial, Exit]) -> None:
        """Trials took their last step and are saved, but for those with an error; their tensors are still there."""

    def first_step_taken(self) -> None:
        """The first step of all was taken, and is not recorded yet; what is no part of the start comes now."""

    def stepped(self, losses: Mapping[Trial, float], tokens_per_s: float) -> None:
        """Trials took a step. tokens_per_s: the rate of all of them together, so far."""


# ---- the loop ----------------------------------------------------------------------------------------------------


def fit(group: Group, callbacks: Callbacks, stop: StopSignal, startup: Stopwatch | None = None) -> None:
    """Train until no trial is left: each from where it is to the end that its config sets.

    Between steps trials are evaluated and saved as their configs say, leave, and others take their slots. On a
    stop signal all are saved where they are, and leave.

    startup: told when the first step is done.
    """
    records = StepRecords(group, callbacks.stepped)
    compiled_s, stepped = compile_s(), False
    with group.adapted.training():
        while True:
            stopped = _boundary(group, callbacks, records, stop)
            admitted = [] if stopped else callbacks.admit(group.free_slots)
            group.enter(admitted)
            if any(trial.state.step for trial in admitted):
                continue  # a resumed one may be due an evaluation, or be at its end
            if not group.trials:
                return
            records.resume_clock()
            try:
                measured = train_step(group, [trial.next_batch() for trial in group.trials])
            except torch.OutOfMemoryError as error:
                if len(group.trials) > 1:
                    _pause_half(group, callbacks, records)
                else:
                    records.failed[group.trials[0]] = error  # others may be smaller
                continue
            if not stepped:
                stepped = True
                measured.read()
                if startup is not None:
                    compiling = {"compile": seconds} if (seconds := compile_s() - compiled_s) else {}
                    startup.lap("first step", **compiling)
                    log.info(startup.describe())
                _after_first_step(group, callbacks, records, measured)
            records.add(measured)


def _after_first_step(
    group: Group, callbacks: Callbacks, records: StepRecords, measured: StepMeasurement
) -> None:
    """What the first step need not wait for, and its record does: the device's rate, and the base's evaluation.

    Raises StopRequested where a signal cuts it short: the first step is as if it had not been, and is taken again
    on resuming.
    """
    group.give_back_freed_memory()
    try:
        with records.clock_stopped(), group.adapted.evaluating():
            devices_rate(group.processes)  # measured here, while nothing else computes
            callbacks.first_step_taken()
    except StopRequested:
        for step in measured.trials:
            step.trial.state.step = step.number - 1
        raise


def _boundary(group: Group, callbacks: Callbacks, records: StepRecords, stop: StopSignal) -> bool:
    """Evaluate and save the trials that are due, and let go of those that have ended. Returns whether all must."""
    sources = callbacks.requested()
    due = [trial for trial in group.trials if trial.schedule.evaluates_at(trial.state.step)]
    if due:
        records.catch_up()
    leaving = _failures(group, records)
    due = [trial for trial in due if trial not in leaving and trial.state.evaluated_step != trial.state.step]
    # A run that is resumed with later limits goes on from here, and is evaluated here only if those ask for it.
    _save(group, [trial for trial in due if trial.state.step == trial.schedule.total_steps], leaving)
    due = [trial for trial in due if trial not in leaving]
    cut_short = bool(due) and not _validate(group, callbacks, records, due)
    leaving |= _failures(group, records)
    stopped = bool(group.processes.agreed(cut_short or stop.number is not None))
    for trial in group.trials:
        if trial not in leaving and (by := _ended_by(trial, stopped=stopped)):
            leaving[trial] = Exit(by)
    if due and not cut_short:
        continuing = [trial for trial in due if trial not in leaving]
        leaving |= {trial: Exit("pause") for trial in callbacks.evaluated(due, continuing)}
    saving = [
        trial
        for trial in group.trials
        if trial in leaving or trial in sources or trial.schedule.saves_at(trial.state.step)
    ]
    if saving:
        records.catch_up()
        leaving |= _failures(group, records)
        _save(group, saving, leaving)
    if leaving:
        group.give_back_freed_memory()
        with group.adapted.evaluating():
            callbacks.on_leave(leaving)
        group.leave(leaving)
    if due or leaving:
        group.give_back_freed_memory()
    return stopped


def _failures(group: Group, records: StepRecords) -> dict[Trial, Exit]:
    """Trials whose step went wrong; one that was only short of memory among others pauses."""
    failed = {trial: error for trial, error in records.failed.items() if trial in group.trials}
    records.failed.clear()
    short = [trial for trial, error in failed.items() if isinstance(error, torch.OutOfMemoryError)]
    if not short or len(short) == len(group.trials):
        return {trial: Exit("error", error) for trial, error in failed.items()}
    group.shrink(len(group.trials) - len(short))
    return {
        trial: Exit("pause") if trial in short else Exit("error", error) for trial, error in failed.items()
    }


def _ended_by(trial: Trial, *, stopped: bool) -> EndedBy | None:
    patience, state = trial.spec.trainer.early_stopping.patience, trial.state
    if patience is not None and state.evaluations_since_best >= patience:
        return "early_stopping"
    if state.step == trial.schedule.total_steps and state.evaluated_step == state.step:
        return trial.schedule.limit
    if trial.stop_at is not None and state.step >= trial.stop_at:
        return "request"
    return "signal" if stopped else None


def _pause_half(group: Group, callbacks: Callbacks, records: StepRecords) -> None:
    """After a step that did not fit, and was not taken: half of the trials wait until others are done."""
    records.catch_up()
    group.shrink(len(group.trials) // 2)
    leaving = {trial: Exit("pause") for trial in group.trials[group.slots :]} | _failures(group, records)
    _save(group, list(leaving), leaving)
    callbacks.on_leave(leaving)
    group.leave(leaving)


def _validate(group: Group, callbacks: Callbacks, records: StepRecords, due: Sequence[Trial]) -> bool:
    """Evaluate trials at their present steps. False where a signal cut it short: it is done again on resuming."""
    group.give_back_freed_memory()
    try:
        with group.adapted.evaluating():
            results = callbacks.evaluate(due)
    except StopRequested:
        return False
    for trial, metrics in zip(due, results, strict=True):
        state = trial.state
        state.evaluated_step, state.val_loss = state.step, metrics["val/loss"]
        note_evaluation(trial, metrics[trial.spec.trainer.best_metric])
        records.record(trial, metrics, state.step)
        best = f" (best {trial.spec.trainer.best_metric})" if state.best_step == state.step else ""
        trial.say(logging.INFO, "step %d: %s%s", state.step, callbacks.in_words(metrics), best)
    return True


def note_evaluation(trial: Trial, value: float) -> None:
    """Keep the parameters where `value` is the best so far; gains of up to `min_change` do not restore patience."""
    state, trainer = trial.state, trial.spec.trainer
    state.last_value = value
    sign = -1.0 if trainer.best_metric == "val/loss" else 1.0
    gain = math.inf if state.best_value is None else sign * (value - state.best_value)
    if not math.isfinite(value):
        gain = -math.inf
    state.evaluations_since_best = (
        0 if gain > trainer.early_stopping.min_change else state.evaluations_since_best + 1
    )
    if gain > 0:
        state.best_value, state.best_step = value, state.step
        trial.keep_best()


def _save(group: Group, trials: Sequence[Trial], leaving: dict[Trial, Exit]) -> None:
    """Save what is not saved yet; one that cannot be leaves with that error."""
    for trial in trials:
        reason = leaving.get(trial)
        if trial.state.step == 0 or (reason and reason.error):
            continue
        if trial.saved_step == trial.state.step and not (reason and reason.by == "pause"):
            continue
        trial.count_time()
        if not group.processes.is_main:
            continue
        try:
            save_checkpoint(trial)
        except OSError as error:
            if group.processes.count > 1:
                raise  # the other processes do not hear of it
            leaving[trial] = Exit("error", error)


# ---- one step ----------------------------------------------------------------------------------------------------


@runtime_checkable
class CudaEventLike(Protocol):
    """What of a GPU's event is asked for here."""

    def synchronize(self) -> None:
        """Wait until the GPU has come that far."""


@dataclass(frozen=True, kw_only=True)
class TrialStep:
    """What one step was of one trial."""

    trial: Trial
    number: int
    """The trial's optimizer step, from 1."""
    rate: float
    tokens: int
    """Tokens trained on, prompts included, padding not."""
    flops: int
    """FLOPs that the trial's training takes, by `utilization`'s count."""
    row_ids: list[str]
    error: Exception | None
    """What kept the trial's optimizer from its step."""
    scaling: dict[str, float]
    """What the loss scaling has to log, once the step was taken or skipped."""
    unrecoverable: bool
    """Whether the gradients were not finite, however small the loss is scaled."""


@dataclass(frozen=True)
class StepMeasurement:
    """What one step measured, on its way from the device."""

    trials: Sequence[TrialStep]
    numbers: Float[Tensor, "2 n"]
    """Each trial's loss, in nats per summary token, and gradient norm before clipping."""
    arrived: CudaEventLike | None
    """When `numbers` may be read; None where they are there already."""

    @property
    def tokens(self) -> int:
        return sum(one.tokens for one in self.trials)

    @property
    def flops(self) -> int:
        return sum(one.flops for one in self.trials)

    def read(self) -> tuple[list[float], list[float]]:
        """Losses and norms of the trials; waits for the device where it must."""
        if self.arrived is not None:
            self.arrived.synchronize()
        losses, norms = self.numbers.tolist()
        return losses, norms


def train_step(group: Group, batches: Sequence[Sequence[EncodedRow]]) -> StepMeasurement:
    """Backpropagate, clip, and update every trial.

    Only two things in it wait for the device: fp16, to know which trials skip the step, and an optimizer that does.

    batches: each trial's examples of its next step, over all processes.
    Raises torch.OutOfMemoryError where not even one example of each trial fits; no trial took its step then.
    """
    losses = backpropagate(group, batches)
    skips = group.scaling.update(group.scaling.unscale())
    norms = clip_gradients(
        [trial.gradients for trial in group.trials],
        [trial.spec.trainer.max_grad_norm for trial in group.trials],
    )
    steps = []
    for trial, rows, skip in zip(group.trials, batches, skips, strict=True):
        rate, error = trial.rate, None
        assert trial.optimizer is not None
        assert trial.shape is not None
        try:
            if not skip:
                for parameters in trial.optimizer.param_groups:
                    parameters["lr"] = rate * parameters.get(LR_RATIO, 1.0)
                trial.optimizer.step()
            trial.state.step += 1
        except Exception as failure:  # which is none of the other trials' business
            error = failure
        lengths = lengths_of(rows, group.prompt)
        steps.append(
            TrialStep(
                trial=trial,
                number=trial.state.step,
                rate=rate,
                tokens=sum(lengths),
                flops=training_flops(trial.shape, lengths, summary_tokens(rows)).total,
                row_ids=[row.id for row in rows],
                error=error,
                scaling=group.scaling.metrics(trial),
                unrecoverable=group.scaling.unrecoverable(trial),
            )
        )
    group.adapted.zero_grad()
    if group.freed is not None:
        group.freed.bound()
    return StepMeasurement(steps, *_to_host(torch.stack([losses, norms])))


def _to_host(numbers: Tensor) -> tuple[Tensor, CudaEventLike | None]:
    """The numbers on their way to the host, and when they will have arrived."""
    if not numbers.is_cuda:
        return numbers, None
    on_host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    on_host.copy_(numbers, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return on_host, arrived


# ---- what the steps measured -------------------------------------------------------------------------------------


class StepRecords:
    """Takes each step's measurements in order to the trials' records, on a GPU one step behind the steps.

    `catch_up` before anything that needs them, such as a checkpoint.
    """

    def __init__(self, group: Group, stepped: Callable[[Mapping[Trial, float], float], None]) -> None:
        """stepped: hears of each trial's loss after each step, and the tokens/s of all trials so far."""
        self.failed: dict[Trial, Exception] = {}
        """Trials whose loss is not finite, or whose step or record failed. They are not recorded any further."""
        self._group = group
        self._stepped = stepped
        self._waiting: StepMeasurement | None = None
        self._since_s: float | None = None
        self._compiled_s = compile_s()
        self._tokens, self._train_s = 0, 0.0
        self._faster_than_measured = False

    def resume_clock(self) -> None:
        """Steps are timed from here: what went before, such as an evaluation, was none of theirs."""
        if self._waiting is None:
            self._since_s = time.perf_counter()

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Within it no time passes for the step that was taken and is not added yet."""
        begun_s = time.perf_counter()
        yield
        if self._since_s is not None:
            self._since_s += time.perf_counter() - begun_s

    def add(self, measured: StepMeasurement) -> None:
        behind, self._waiting = self._waiting, measured
        if behind is not None:
            self._record(behind)
        if measured.arrived is None:
            self.catch_up()

    def catch_up(self) -> None:
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._record(waiting)

    def _record(self, measured: StepMeasurement) -> None:
        losses, norms = measured.read()
        now_s = time.perf_counter()
        assert self._since_s is not None
        compiled_s = compile_s()  # paid once, and no part of a step's rate
        seconds = now_s - self._since_s - (compiled_s - self._compiled_s)
        self._since_s, self._compiled_s = now_s, compiled_s
        # The device's, hence of all trials together.
        mfu = utilization(measured.flops, seconds, devices_rate(self._group.processes))
        if mfu is None and not self._faster_than_measured:
            self._faster_than_measured = True
            log.info(
                "steps faster than the device's matrix rate, which was measured while others used it: no mfu"
            )
        self._tokens += measured.tokens
        self._train_s += seconds
        shown: dict[Trial, float] = {}
        memory_bytes = peak_memory_bytes(self._group.adapted.device)
        for step, loss, norm in zip(measured.trials, losses, norms, strict=True):
            trial = step.trial
            error = step.error or _divergence(step, loss)
            if error is not None:
                self.failed.setdefault(trial, error)
            if trial in self.failed:
                continue
            state = trial.state
            state.tokens += step.tokens
            state.flops += measured.flops
            state.first_loss = loss if state.first_loss is None else state.first_loss
            state.last_loss = loss
            state.train_s += seconds
            if (
                step.number % trial.spec.trainer.log_every_steps == 0
                or step.number == trial.schedule.total_steps
            ):
                values = {
                    "train/loss": loss,
                    "train/lr": step.rate,
                    "train/grad_norm": norm,
                    "train/tokens_per_s": step.tokens / seconds,
                    **({} if mfu is None else {"train/mfu": mfu}),
                    "train/memory_bytes": memory_bytes,
                    **step.scaling,
                }
                self.record(trial, values, step.number)
            shown[trial] = loss
        self._stepped(shown, self._tokens / self._train_s)

    def record(self, trial: Trial, values: Mapping[str, float], step: int) -> None:
        """Record metrics of a trial, which fails where they cannot be written."""
        try:
            trial.record(values, step)
        except OSError as error:
            self.failed.setdefault(trial, error)


def _divergence(step: TrialStep, loss: float) -> NonFiniteLossError | None:
    if not math.isfinite(loss):
        return NonFiniteLossError(
            f"the loss is {loss} at step {step.number} on rows {', '.join(step.row_ids)}; "
            "the last checkpoint is as it was. A lower optimizer.lr or trainer.max_grad_norm usually helps"
        )
    if step.unrecoverable:
        return NonFiniteLossError(
            f"the gradients of step {step.number} are not finite in fp16, however small the loss is scaled; the "
            "last checkpoint is as it was. trainer.precision=fp32 helps if it was only the precision, a lower "
            "optimizer.lr or trainer.max_grad_norm if it was not"
        )
    return None
