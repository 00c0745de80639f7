"""The training loop. It trains a group of trials over one base; a run alone is a group of one."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from summarizer.adapters.attach import AdaptedModel
from summarizer.config.specs import TrainerSpec
from summarizer.data.batches import EncodedRow, TrainingRows, collate
from summarizer.data.prompt import Prompt
from summarizer.errors import NonFiniteLossError, StopRequested
from summarizer.model.nll import summary_nll
from summarizer.processes import Processes
from summarizer.progress import Bar, bar
from summarizer.tracking.environment import peak_memory_bytes
from summarizer.training.checkpoint import save_checkpoint
from summarizer.training.stopping import StopSignal
from summarizer.training.trial import Trial

EndedBy = Literal["epochs", "max_steps", "early_stopping", "signal"]
Evaluate = Callable[[], list[dict[str, float]]]
"""Validation metrics of each trial, by name."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Group:
    """Trials that share model, data, prompt and trainer, and differ in adapter, optimizer or seed."""

    adapted: AdaptedModel
    trials: list[Trial]
    rows: TrainingRows
    prompt: Prompt
    processes: Processes

    @property
    def trainer(self) -> TrainerSpec:
        return self.trials[0].spec.trainer

    @property
    def step(self) -> int:
        return self.trials[0].reached.step


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

    begun_at = group.step

    with (
        group.adapted.training(),
        bar("training", total, done=group.step, show=group.processes.is_main) as progress,
    ):
        while True:
            step = group.step
            ended_by: EndedBy | None = None
            if step and (step % evaluate_every == 0 or step == total):
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
                _save(group)
            if ended_by:
                return ended_by
            _train_step(group, [next(stream) for stream in batches], total, steps_per_epoch, progress)


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


def _train_step(
    group: Group, batches: list[list[EncodedRow]], total: int, steps_per_epoch: int | None, progress: Bar
) -> None:
    """One optimizer step of every trial."""
    start_s = time.perf_counter()
    adapted, trainer = group.adapted, group.trainer
    step = group.step + 1
    losses, tokens = backpropagate(group, batches)
    _require_finite(losses, step, batches)
    for trial, loss, count in zip(group.trials, losses.tolist(), tokens, strict=True):
        rate, norm = trial.update(step, total)
        reached = trial.reached
        reached.step, reached.tokens = step, reached.tokens + count
        reached.first_loss = loss if reached.first_loss is None else reached.first_loss
        reached.last_loss = loss
        seconds = time.perf_counter() - start_s
        reached.train_s += seconds
        if step % trainer.log_every_steps == 0 or step == total:
            trial.record(
                {
                    "train/loss": loss,
                    "train/lr": rate,
                    "train/grad_norm": float(norm),
                    "train/tokens_per_s": count / seconds,
                    "train/memory_bytes": peak_memory_bytes(adapted.device),
                },
                _epoch(step, steps_per_epoch),
            )
    adapted.zero_grad()
    first = group.trials[0].reached
    progress.note(f"loss {float(losses.mean()):.3f}, {first.tokens / first.train_s:,.0f} tokens/s")
    progress.advance()


def backpropagate(group: Group, batches: list[list[EncodedRow]]) -> tuple[Float[Tensor, " n"], list[int]]:
    """Leave each trial's gradient of its mean loss over its batch in the trial's parameters.

    batches: each trial's examples of this step, over all processes. Returns the losses in nats per summary token,
    and the tokens trained on, of each trial. Microbatches and processes only split the sum: every part is divided
    by the count of the whole batch, so that the result is that of one large batch.
    """
    processes, trainer, n = group.processes, group.trainer, len(batches)
    device = processes.device
    counts = torch.tensor([sum(len(row.target_ids) for row in rows) for rows in batches], device=device)
    tokens = [
        sum(len(group.prompt.training_ids(row.article_ids, row.target_ids)[0]) for row in rows)
        for rows in batches
    ]
    losses = torch.zeros(n, device=device)
    own = [processes.share(rows) for rows in batches]
    size = trainer.microbatch_size or max(len(own[0]), 1)
    for part_index, start in enumerate(range(0, len(own[0]), size)):
        # A function of the step alone, so that a resumed run draws the same dropout.
        parts_done = group.step * trainer.batch_size + part_index
        group.adapted.group.passes = parts_done * processes.count + processes.rank
        batch = collate([row for rows in own for row in rows[start : start + size]], group.prompt).to(device)
        with processes.autocast():
            nll = summary_nll(group.adapted.model, batch.input_ids, batch.attention_mask, batch.labels)
        part = nll.reshape(n, -1).sum(dim=1) / counts
        processes.accelerator.backward(part.sum())
        losses += part.detach()
    if processes.count > 1:
        _sum_gradients(group)
    return processes.summed(losses), tokens


def _sum_gradients(group: Group) -> None:
    """One reduction for all adapters: they are small, and many small ones would wait on each other."""
    grads = [stack.grad for stack in group.adapted.stacks() if stack.grad is not None]
    flat = group.processes.summed(torch.cat([grad.reshape(-1) for grad in grads]))
    for grad, total in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(total.reshape(grad.shape))


def _require_finite(losses: Float[Tensor, " n"], step: int, batches: list[list[EncodedRow]]) -> None:
    if torch.isfinite(losses).all():
        return
    trial = int((~torch.isfinite(losses)).nonzero()[0])
    rows = ", ".join(row.id for row in batches[trial])
    raise NonFiniteLossError(
        f"the loss is {float(losses[trial])} at step {step} on rows {rows}; "
        "the last checkpoint is as it was. A lower optimizer.lr or trainer.max_grad_norm usually helps"
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
        trial.record(metrics, _epoch(reached.step, steps_per_epoch))
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


def _epoch(step: int, steps_per_epoch: int | None) -> float:
    """Epochs done; a streamed split does not know how long one is, and counts none."""
    return round(step / steps_per_epoch, 4) if steps_per_epoch else 0.0
