"""The training loop. It trains a group of trials over one base; a run alone is a group of one."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch

from summarizer.compat import compile_s
from summarizer.errors import StopRequested
from summarizer.tracking.startup import startup
from summarizer.training.checkpoint import save_checkpoint
from summarizer.training.course import EndedBy
from summarizer.training.group import Group
from summarizer.training.records import StepRecords
from summarizer.training.step import train_step
from summarizer.training.stopping import StopSignal
from summarizer.training.trial import Trial

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Leaving:
    """Why a trial leaves its group."""

    by: EndedBy | Literal["pause"]
    """`error`: the loss was not finite, or the trial could not be saved or stepped. `pause`: another gets its
    place, and it may come back to go on where it was."""
    error: Exception | None = None


@runtime_checkable
class Owner(Protocol):
    """Those whose runs the loop trains: what it asks of them and tells them."""

    def admit(self, free: int | None) -> list[Trial]:
        """Trials that take a place now, at most `free` (None: as many as there are), given to the model already."""

    def evaluate(self, trials: Sequence[Trial]) -> list[dict[str, float]]:
        """Validation metrics of each trial, by name. Raises StopRequested where a signal cuts it short."""

    def evaluated(self, trials: Sequence[Trial], going_on: Sequence[Trial]) -> list[Trial]:
        """Which of those that would go on are to give their place to others."""

    def left(self, trials: Mapping[Trial, Leaving]) -> None:
        """They took their last step and are saved, but for those with an error; their tensors are still there."""

    def stepped(self, losses: Mapping[Trial, float], tokens_per_s: float) -> None:
        """Trials took a step. tokens_per_s: of all of them together, so far."""


def fit(group: Group, owner: Owner, stop: StopSignal) -> None:
    """Train until no trial is left: each from where it is to the end that its config sets.

    Between steps trials are evaluated and saved as their configs say, leave, and others take their places. On a
    stop signal all are saved where they are, and leave.
    """
    records = StepRecords(group, owner.stepped)
    first_step, compiled_s = True, compile_s()
    with group.adapted.training():
        while True:
            stopped = _boundary(group, owner, records, stop)
            admitted = [] if stopped else owner.admit(group.free_places)
            group.enter(admitted)
            if any(trial.reached.step for trial in admitted):
                continue  # one that goes on may be due an evaluation, or be at its end
            if not group.trials:
                return
            records.resume_clock()
            try:
                records.add(train_step(group, [trial.next_batch() for trial in group.trials]))
            except torch.OutOfMemoryError as error:
                if len(group.trials) > 1:
                    _split(group, owner, records)
                else:
                    records.failed[group.trials[0]] = error  # others may be smaller
            if first_step:
                first_step = False
                records.catch_up()
                compiling = {"compile": seconds} if (seconds := compile_s() - compiled_s) else {}
                startup().lap("first step", **compiling)
                log.info(startup().describe())


def _boundary(group: Group, owner: Owner, records: StepRecords, stop: StopSignal) -> bool:
    """Evaluate and save the trials that are due, and let go of those that have ended. Returns whether all must."""
    due = [trial for trial in group.trials if trial.course.evaluates_at(trial.reached.step)]
    if due:
        records.catch_up()
    leaving = _failures(group, records)
    due = [
        trial for trial in due if trial not in leaving and trial.reached.evaluated_step != trial.reached.step
    ]
    cut_short = bool(due) and not _validate(group, owner, records, due)
    leaving |= _failures(group, records)
    stopped = bool(group.processes.agreed(cut_short or stop.number is not None))
    for trial in group.trials:
        if trial not in leaving and (by := _ended_by(trial, stopped=stopped)):
            leaving[trial] = Leaving(by)
    if due and not cut_short:
        going_on = [trial for trial in due if trial not in leaving]
        leaving |= {trial: Leaving("pause") for trial in owner.evaluated(due, going_on)}
    saving = [
        trial for trial in group.trials if trial in leaving or trial.course.saves_at(trial.reached.step)
    ]
    if saving:
        records.catch_up()
        leaving |= _failures(group, records)
        _save(group, saving, leaving)
    if leaving:
        with group.adapted.evaluating():
            owner.left(leaving)
        group.leave(leaving)
    return stopped


def _failures(group: Group, records: StepRecords) -> dict[Trial, Leaving]:
    """Those whose step went wrong; one that was only short of memory among others pauses."""
    failed = {trial: error for trial, error in records.failed.items() if trial in group.trials}
    records.failed.clear()
    short = [trial for trial, error in failed.items() if isinstance(error, torch.OutOfMemoryError)]
    if not short or len(short) == len(group.trials):
        return {trial: Leaving("error", error) for trial, error in failed.items()}
    group.shrink(len(group.trials) - len(short))
    return {
        trial: Leaving("pause") if trial in short else Leaving("error", error)
        for trial, error in failed.items()
    }


def _ended_by(trial: Trial, *, stopped: bool) -> EndedBy | None:
    patience, reached = trial.spec.trainer.early_stopping.patience, trial.reached
    if patience is not None and reached.evaluations_since_best >= patience:
        return "early_stopping"
    if reached.step == trial.course.total_steps and reached.evaluated_step == reached.step:
        return trial.course.limit
    return "signal" if stopped else None


def _split(group: Group, owner: Owner, records: StepRecords) -> None:
    """After a step that did not fit, and was not taken: half of the trials wait until others are done."""
    records.catch_up()
    group.shrink(len(group.trials) // 2)
    leaving = {trial: Leaving("pause") for trial in group.trials[group.places :]} | _failures(group, records)
    _save(group, list(leaving), leaving)
    owner.left(leaving)
    group.leave(leaving)


def _validate(group: Group, owner: Owner, records: StepRecords, due: Sequence[Trial]) -> bool:
    """Evaluate trials at their present steps. False where a signal cut it short: it is done again on resuming."""
    try:
        with group.adapted.evaluating():
            results = owner.evaluate(due)
    except StopRequested:
        return False
    for trial, metrics in zip(due, results, strict=True):
        reached = trial.reached
        reached.evaluated_step, reached.val_loss = reached.step, metrics["val/loss"]
        note_evaluation(trial, metrics[trial.spec.trainer.best_metric])
        records.record(trial, metrics, reached.step)
        shown = ", ".join(f"{name} {number:.3f}" for name, number in metrics.items())
        best = f" (best {trial.spec.trainer.best_metric})" if reached.best_step == reached.step else ""
        trial.say(logging.INFO, "step %d: %s%s", reached.step, shown, best)
    return True


def note_evaluation(trial: Trial, value: float) -> None:
    """Keep the parameters where `value` is the best so far; gains of up to `min_change` do not restore patience."""
    reached, trainer = trial.reached, trial.spec.trainer
    reached.last_value = value
    sign = -1.0 if trainer.best_metric == "val/loss" else 1.0
    gain = math.inf if reached.best_value is None else sign * (value - reached.best_value)
    if not math.isfinite(value):
        gain = -math.inf
    reached.evaluations_since_best = (
        0 if gain > trainer.early_stopping.min_change else reached.evaluations_since_best + 1
    )
    if gain > 0:
        reached.best_value, reached.best_step = value, reached.step
        trial.keep_best()


def _save(group: Group, trials: Sequence[Trial], leaving: dict[Trial, Leaving]) -> None:
    """Save what is not saved yet; one that cannot be leaves with that error."""
    for trial in trials:
        reason = leaving.get(trial)
        if trial.reached.step == 0 or (reason and reason.error):
            continue
        if trial.saved_step == trial.reached.step and not (reason and reason.by == "pause"):
            continue
        trial.count_time()
        if not group.processes.is_main:
            continue
        try:
            save_checkpoint(trial)
        except OSError as error:
            if group.processes.count > 1:
                raise  # the other processes do not hear of it
            leaving[trial] = Leaving("error", error)
