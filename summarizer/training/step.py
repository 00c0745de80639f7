"""One optimizer step of a group. Nothing in it waits for the device: what it measured is read later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from summarizer.data.batches import moved
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt
from summarizer.models.blocks import begin_pass
from summarizer.models.nll import summary_nll
from summarizer.tracking.utilization import training_flops
from summarizer.training.clipping import clip_gradients
from summarizer.training.group import Group
from summarizer.training.trial import Trial


@runtime_checkable
class Arrival(Protocol):
    """What of a card's event is asked for here."""

    def synchronize(self) -> None:
        """Wait until the card has come that far."""


@dataclass(frozen=True)
class Measured:
    """What one step measured, on its way from the device."""

    trials: Sequence[Trial]
    steps: list[int]
    """Which optimizer step it was of each trial."""
    numbers: Float[Tensor, "2 n"]
    """Each trial's loss, in nats per summary token, and gradient norm before clipping."""
    arrived: Arrival | None
    """When `numbers` may be read; None where they are there already."""
    rates: list[float]
    """Each trial's learning rate."""
    tokens: list[int]
    """Trained on in each trial, prompts included, padding not."""
    flops: list[int]
    """That each trial's training takes, by `utilization`'s count."""
    row_ids: list[list[str]]
    errors: list[Exception | None]
    """What kept a trial's optimizer from its step."""
    scaling: list[dict[str, float]]
    """What the loss scaling has to log of each trial, once the step was taken or skipped."""
    hopeless: list[bool]
    """Whether a trial's gradients were not finite, however small its loss is scaled."""

    def read(self) -> tuple[list[float], list[float]]:
        """Losses and norms of the trials; waits for the device where it must."""
        if self.arrived is not None:
            self.arrived.synchronize()
        losses, norms = self.numbers.tolist()
        return losses, norms


def train_step(group: Group, batches: Sequence[Sequence[EncodedRow]]) -> Measured:
    """Backpropagate, clip, and update every trial.

    batches: each trial's examples of its next step, over all processes.
    Raises torch.OutOfMemoryError where not even one example of each trial fits; no trial took its step then.
    """
    trials = list(group.trials)
    lengths = [lengths_of(rows, group.prompt) for rows in batches]
    losses = backpropagate(group, batches)
    skips = group.scaling.update(group.scaling.unscale())
    norms = clip_gradients(
        [[p.grad for p in trial.parameters.values() if p.grad is not None] for trial in trials],
        [trial.spec.trainer.max_grad_norm for trial in trials],
    )
    rates = [trial.rate for trial in trials]
    errors = [_stepped(trial, skip=skip) for trial, skip in zip(trials, skips, strict=True)]
    group.adapted.zero_grad()
    numbers, arrived = _leaving(torch.stack([losses, norms]))
    return Measured(
        trials,
        [trial.reached.step for trial in trials],
        numbers,
        arrived,
        rates,
        [sum(own) for own in lengths],
        [
            training_flops(trial.shape, own, _summary_tokens(rows)).total
            for trial, own, rows in zip(trials, lengths, batches, strict=True)
        ],
        [[row.id for row in rows] for rows in batches],
        errors,
        [group.scaling.metrics(trial) for trial in trials],
        [group.scaling.hopeless(trial) for trial in trials],
    )


def backpropagate(group: Group, batches: Sequence[Sequence[EncodedRow]]) -> Float[Tensor, " n"]:
    """Leave each trial's gradient of its mean loss over its batch in the trial's parameters, times its loss scale.

    Returns the losses in nats per summary token. Microbatches and processes only split the sum: every part is
    divided by the count of the whole batch, so that the result is that of one large batch. Where a part does not
    fit into memory, the step is begun anew in smaller ones.
    """
    processes = group.processes
    counts = moved(torch.tensor([_summary_tokens(rows) for rows in batches]), processes.device)
    # Numbered before they are shared out: dropout depends on an example's number in its batch.
    own = [processes.share(list(enumerate(rows))) for rows in batches]
    while True:
        try:
            losses = _accumulate(group, own, counts)
            break
        except torch.OutOfMemoryError:
            group.adapted.zero_grad()
            if not group.microbatches.halve(max(map(len, own))):
                raise
        torch.cuda.empty_cache()  # outside the handler, whose traceback holds on to the step's tensors
    if processes.count > 1:
        _sum_gradients(group)
    return processes.summed(losses)


def _accumulate(
    group: Group, own: Sequence[Sequence[tuple[int, EncodedRow]]], counts: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Back-propagate this process's part of each batch. Returns its part of the losses."""
    processes = group.processes
    losses = torch.zeros(len(own), device=processes.device)
    steps = [trial.reached.step for trial in group.trials]
    lengths = [lengths_of([row for _, row in numbered], group.prompt) for numbered in own]
    buckets = group.microbatches.buckets(len(own), max(map(len, own)), group.prompt.max_tokens)
    for part in group.microbatches.split(lengths):
        rows = [[row for _, row in numbered[part]] for numbered in own]
        numbers = [[k for k, _ in numbered[part]] for numbered in own]
        batch = group.adapted.batch(rows, group.prompt, numbers, buckets)
        if buckets is not None:
            begin_pass()
        group.adapted.draw_from(batch, steps, in_place=buckets is not None)
        with processes.autocast():
            losses_of_part = summary_nll(group.adapted.model, batch) / counts
        processes.accelerator.backward(group.scaling.scaled(losses_of_part))
        losses += losses_of_part.detach()
    return losses


def _stepped(trial: Trial, *, skip: bool) -> Exception | None:
    """What went wrong with this trial's step, which is none of the others' business."""
    try:
        trial.take_step(skip=skip)
    except Exception as error:
        return error
    return None


def lengths_of(rows: Sequence[EncodedRow], prompt: Prompt) -> list[int]:
    """Tokens of each example, prompt and summary, as it is trained on."""
    return [len(prompt.training_ids(row.article_ids, row.target_ids)[0]) for row in rows]


def _sum_gradients(group: Group) -> None:
    """One reduction for all adapters: they are small, and many small ones would wait on each other."""
    grads = [stack.grad for stack in group.adapted.stacks() if stack.grad is not None]
    flat = group.processes.summed(torch.cat([grad.reshape(-1) for grad in grads]))
    for grad, total in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(total.reshape(grad.shape))


def _summary_tokens(rows: Sequence[EncodedRow]) -> int:
    return sum(len(row.target_ids) for row in rows)


def _leaving(numbers: Tensor) -> tuple[Tensor, Arrival | None]:
    """The numbers on their way to the host, and when they will have arrived."""
    if not numbers.is_cuda:
        return numbers, None
    on_host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    on_host.copy_(numbers, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return on_host, arrived
