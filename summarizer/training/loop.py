"""The training loop. It trains a group of trials over one base; a run alone is a group of one."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Literal

from summarizer.config.specs import TrainerSpec
from summarizer.data.order import EncodedRow
from summarizer.errors import StopRequested
from summarizer.progress import bar
from summarizer.tracking.startup import compile_s, startup
from summarizer.training.checkpoint import save_checkpoint
from summarizer.training.group import Group
from summarizer.training.records import StepRecords, epoch_of
from summarizer.training.step import train_step
from summarizer.training.stopping import StopSignal
from summarizer.training.trial import Trial

EndedBy = Literal["epochs", "max_steps", "early_stopping", "signal"]
Evaluate = Callable[[], list[dict[str, float]]]
"""Validation metrics of each trial, by name."""

log = logging.getLogger(__name__)


def fit(group: Group, evaluate: Evaluate, stop: StopSignal) -> EndedBy:
    """Train from where the trials are to the end that their config sets, evaluating and saving on the way.

    Returns what ended it; on a stop signal the trials are saved where they are.
    Raises NonFiniteLossError with step and rows where a loss is not finite; nothing is saved then.
    """
    trainer = group.trainer
    steps_per_epoch = group.rows.steps_per_epoch(trainer.batch_size)
    total = total_steps(trainer, steps_per_epoch)
    evaluate_every = trainer.evaluate_every_steps or steps_per_epoch or total
    save_every = trainer.checkpoint_every_steps or steps_per_epoch or total
    by_steps = trainer.max_steps is not None and total == trainer.max_steps
    batches = [_batches_of(trial, group) for trial in group.trials]

    begun_at, compiled_s = group.step, compile_s()
    with (
        group.adapted.training(),
        bar("training", total, done=group.step, show=group.processes.is_main) as progress,
    ):
        records = StepRecords(group, total, steps_per_epoch, progress)
        while True:
            step = group.step
            ended_by: EndedBy | None = None
            if step and (step % evaluate_every == 0 or step == total):
                records.catch_up()
                try:
                    _validate(group, evaluate, steps_per_epoch)
                except StopRequested:
                    ended_by = "signal"  # the evaluation is done again on resuming
            if _out_of_patience(group):
                ended_by = ended_by or "early_stopping"
            elif step == total:
                ended_by = ended_by or ("max_steps" if by_steps else "epochs")
            elif group.processes.agreed(stop.number is not None):
                ended_by = "signal"
            if step > begun_at and (step % save_every == 0 or ended_by):
                records.catch_up()
                _save(group)
            if ended_by:
                return ended_by
            records.resume_clock()
            records.add(train_step(group, [next(stream) for stream in batches], total))
            if step == begun_at:
                records.catch_up()
                compiling = {"compile": seconds} if (seconds := compile_s() - compiled_s) else {}
                startup().lap("first step", **compiling)
                log.info(startup().describe())


def total_steps(trainer: TrainerSpec, steps_per_epoch: int | None) -> int:
    """Optimizer steps that a config asks for: its epochs (a part of one in whole steps), or fewer by max_steps."""
    limits = [trainer.max_steps] if trainer.max_steps is not None else []
    if trainer.epochs is not None and steps_per_epoch is not None:
        limits.append(max(math.ceil(trainer.epochs * steps_per_epoch - 1e-9), 1))
    return min(limits)


def _batches_of(trial: Trial, group: Group) -> Iterator[list[EncodedRow]]:
    trainer = group.trainer
    return group.rows.batches(
        trial.spec.seed,
        trainer.batch_size,
        trial.reached.step,
        shuffle=trainer.shuffle,
        group_by_length=trainer.group_by_length,
    )


def _validate(group: Group, evaluate: Evaluate, steps_per_epoch: int | None) -> None:
    """Evaluate every trial at its present step, unless that was done before the run was interrupted."""
    if all(trial.reached.evaluated_step == group.step for trial in group.trials):
        return
    with group.adapted.evaluating():
        results = evaluate()
    for trial, metrics in zip(group.trials, results, strict=True):
        reached = trial.reached
        reached.evaluated_step, reached.val_loss = reached.step, metrics["val/loss"]
        note_evaluation(trial, metrics[trial.spec.trainer.best_metric])
        trial.record(metrics, epoch_of(reached.step, steps_per_epoch), reached.step)
        shown = ", ".join(f"{name} {number:.3f}" for name, number in metrics.items())
        best = f" (best {trial.spec.trainer.best_metric})" if reached.best_step == reached.step else ""
        log.info("step %d: %s%s", reached.step, shown, best)


def note_evaluation(trial: Trial, value: float) -> None:
    """Keep the parameters where `value` is the best so far; gains of up to `min_change` do not restore patience."""
    reached, trainer = trial.reached, trial.spec.trainer
    sign = -1.0 if trainer.best_metric == "val/loss" else 1.0
    gain = math.inf if reached.best_value is None else sign * (value - reached.best_value)
    reached.evaluations_since_best = (
        0 if gain > trainer.early_stopping.min_change else reached.evaluations_since_best + 1
    )
    if gain > 0 and math.isfinite(value):
        reached.best_value, reached.best_step = value, reached.step
        trial.keep_best()


def _out_of_patience(group: Group) -> bool:
    patience = group.trainer.early_stopping.patience
    return patience is not None and all(
        trial.reached.evaluations_since_best >= patience for trial in group.trials
    )


def _save(group: Group) -> None:
    for trial in group.trials:
        trial.count_time()
        if group.processes.is_main:
            save_checkpoint(trial)
