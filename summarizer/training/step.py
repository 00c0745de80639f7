"""The gradients of one optimizer step of a group: microbatches, forward, backward, reduction, clipping.

accelerate drives what a step shares with any other training: devices, the backward pass, the sum over processes.
Four things cannot go through it, since its `Accelerator` knows one run with one model where a group has `n` runs in
one model:

- *Clipping*: `Accelerator.clip_grad_norm_` takes one norm of all parameters that it is given and unscales the
  gradients of all optimizers; here each trial is clipped by its own norm (`clip_gradients`).
- *Loss scales*: its fp16 scaler is one for all optimizers and unscales twice where there are several; each trial
  has its own scale (`training.loss_scale`).
- *Boundaries of gradient accumulation*: `Accelerator.accumulate` counts batches of one loader. A step here is split
  into as many microbatches as its memory asks for, which may change from step to step; gradients add up in `.grad`
  and are reduced over processes once, at the step's end, as `no_sync` would have it.
- *Trackers*: `Accelerator.init_trackers` opens one run of each kind, and `Accelerator.log` hands its values to all
  that are open; each trial has its own metrics file and wandb run (`tracking.metrics`), open beside the others'.

Nothing here waits for the device: what is measured is read later.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from summarizer import compat
from summarizer.adapters.attach import AdaptedModel
from summarizer.data.batches import PaddingBuckets, moved
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt
from summarizer.models.blocks import begin_pass
from summarizer.models.causal_lm import summary_nll
from summarizer.processes import FreedMemory, Processes, give_back_freed_memory, keep_freed_memory
from summarizer.training.loss_scale import LossScaling, build_scaling
from summarizer.training.optimizer import Scratch
from summarizer.training.trial import Trial

log = logging.getLogger(__name__)


# ---- what trains together ---------------------------------------------------------------------------------------


@dataclass
class Microbatches:
    """The largest forward pass of a process; an optimizer step takes as many of them as its batch needs."""

    rows: int | None
    """Examples of each trial; None for all."""
    tokens: int | None
    """Tokens of all trials; None for any number. An example longer than that goes alone."""
    few_shapes: bool = False
    """Padding makes them of few shapes, for what is recorded once for each: CUDA graphs."""

    def split(self, lengths: Sequence[Sequence[int]]) -> Iterator[slice]:
        """Which of each trial's examples go through the model together; a trial with fewer has none in the last.

        lengths: tokens of each example of each trial.
        """
        n, start = len(lengths), 0
        most = max(map(len, lengths))
        sizes = [n * max(own[row] for own in lengths if row < len(own)) for row in range(most)]
        for end in range(1, most + 1):
            full = self.rows is not None and end - start == self.rows
            if end == most or full or self._too_many(sum(sizes[start : end + 1])):
                yield slice(start, end)
                start = end

    def buckets(self, trials: int, examples: int, max_tokens: int) -> PaddingBuckets | None:
        """What padding goes up to, the same for all parts of a batch; None where few shapes are not asked for.

        examples: those of the trial with the most.  max_tokens: of an example.
        """
        if not self.few_shapes:
            return None
        most = min(self.rows or examples, examples)
        tokens = most * max_tokens
        return PaddingBuckets(most, tokens if self.tokens is None else min(tokens, self.tokens // trials))

    def halve(self, examples: int) -> bool:
        """After running out of memory: half as much at a time. False where it was one example already.

        examples: those of the trial with the most, in the step that did not fit.
        """
        rows = min(self.rows or examples, examples)
        if rows == 1 and (self.tokens is None or self.tokens <= 1):
            return False
        if self.tokens is not None and self.tokens > 1:
            self.tokens //= 2
        if rows > 1:
            self.rows = rows // 2
        log.warning(
            "out of memory: from here on at most %s per forward pass; optimizer steps keep their batch",
            self,
        )
        return True

    def _too_many(self, tokens: int) -> bool:
        return self.tokens is not None and tokens > self.tokens

    def __str__(self) -> str:
        limits = [f"{self.rows} examples of each trial"] if self.rows else []
        return " and ".join(limits + ([f"{self.tokens:,} tokens"] if self.tokens else []))


@dataclass
class Group:
    """Trials that share model, data, prompt and trainer, and differ in adapter, optimizer or seed.

    They come and go between steps; each has its own step.
    """

    adapted: AdaptedModel
    trials: list[Trial]
    """Those in training, in the order of their adapters in the model."""
    prompt: Prompt
    processes: Processes
    microbatches: Microbatches
    scaling: LossScaling
    slots: int | None
    """The most trials at once; None for any number."""
    scratch: Scratch = field(default_factory=Scratch)
    """What its trials' optimizers step in."""
    freed: FreedMemory | None = None
    """Of a process that keeps what it frees: on the CPU."""

    def give_back_freed_memory(self) -> None:
        """Between steps and evaluations, whose tensors are of other sizes and leave other gaps."""
        if self.freed is not None:
            give_back_freed_memory()

    @property
    def free_slots(self) -> int | None:
        return None if self.slots is None else self.slots - len(self.trials)

    def shrink(self, slots: int) -> None:
        """After running out of memory. slots: 1 or more."""
        self.slots = slots
        log.warning("out of memory: from here on %d train at once, the others wait", self.slots)

    def enter(self, trials: Sequence[Trial]) -> None:
        """Take in trials whose adapters the model was given last, in that order."""
        self.trials.extend(trials)

    def leave(self, leaving: Collection[Trial]) -> None:
        """Take their rows and tensors out of the model; the others continue as they were."""
        kept = [index for index, trial in enumerate(self.trials) if trial not in leaving]
        self.trials[:] = [self.trials[index] for index in kept]
        self.adapted.keep(kept)


def build_group(
    adapted: AdaptedModel,
    prompt: Prompt,
    processes: Processes,
    microbatches: Microbatches,
    slots: int | None = None,
) -> Group:
    """A group without trials yet, over a model without any.

    On the CPU the process keeps, from here on, what memory it frees.
    """
    freed = None
    if processes.device.type == "cpu":
        keep_freed_memory()
        freed = FreedMemory()
    trials: list[Trial] = []
    return Group(
        adapted,
        trials,
        prompt,
        processes,
        microbatches,
        scaling=build_scaling(processes.precision, trials, processes.device),
        slots=slots,
        freed=freed,
    )


# ---- gradients ---------------------------------------------------------------------------------------------------


def backpropagate(group: Group, batches: Sequence[Sequence[EncodedRow]]) -> Float[Tensor, " n"]:
    """Leave each trial's gradient of its mean loss over its batch in the trial's parameters, times its loss scale.

    batches: each trial's examples of its next step, over all processes.
    Returns the losses in nats per summary token. Microbatches and processes only split the sum: every part is
    divided by the count of the whole batch, so that the result is that of one large batch. Where a part does not
    fit into memory, the step is begun anew in smaller ones.
    Raises torch.OutOfMemoryError where not even one example of each trial fits.
    """
    processes = group.processes
    counts = moved(torch.tensor([summary_tokens(rows) for rows in batches]), processes.device)
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
    steps = [trial.state.step for trial in group.trials]
    lengths = [lengths_of([row for _, row in numbered], group.prompt) for numbered in own]
    buckets = group.microbatches.buckets(len(own), max(map(len, own)), group.prompt.max_tokens)
    for part in group.microbatches.split(lengths):
        rows = [[row for _, row in numbered[part]] for numbered in own]
        numbers = [[k for k, _ in numbered[part]] for numbered in own]
        batch = group.adapted.batch(rows, group.prompt, numbers, buckets)
        if buckets is not None:
            begin_pass()
        group.adapted.set_dropout_inputs(batch, steps, in_place=buckets is not None)
        with processes.autocast():
            losses_of_part = summary_nll(group.adapted.model, batch) / counts
        if group.freed is not None:
            group.freed.note_use()
        processes.accelerator.backward(group.scaling.scaled(losses_of_part))
        losses += losses_of_part.detach()
    return losses


def _sum_gradients(group: Group) -> None:
    """One reduction for all adapters: they are small, and many small ones would wait on each other."""
    grads = [stack.grad for stack in group.adapted.stacks() if stack.grad is not None]
    flat = group.processes.summed(torch.cat([grad.reshape(-1) for grad in grads]))
    for grad, total in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(total.reshape(grad.shape))


@torch.no_grad()
def clip_gradients(
    gradients: Sequence[Sequence[Tensor]], limits: Sequence[float | None]
) -> Float[Tensor, " n"]:
    """Scale each trial's gradients, in place, to a norm of at most its limit; the norms before.

    As nn.utils.clip_grad_norm_ for each trial, to the last bit, but the norms of all tensors of all trials are
    taken in one call, and nothing waits for the device.

    limits: one for each trial; None measures only, and leaves gradients alone whose norm is not finite.
    """
    sizes = [len(own) for own in gradients]
    each = compat.foreach_norm([gradient for own in gradients for gradient in own])
    norms = torch.stack([torch.linalg.vector_norm(own) for own in torch.split(torch.stack(each), sizes)])
    # Filled there: a tensor made of a list would be copied to the GPU, and the copy waited for.
    bounds = torch.cat([norms.new_full((1,), math.inf if limit is None else limit) for limit in limits])
    factors = (bounds / (norms + 1e-6)).clamp(max=1.0).unbind()
    for own, limit, factor in zip(gradients, limits, factors, strict=True):
        if limit is not None:
            compat.foreach_mul_(list(own), factor)
    return norms


def lengths_of(rows: Sequence[EncodedRow], prompt: Prompt) -> list[int]:
    """Tokens of each example, prompt and summary, as it is trained on."""
    return [len(prompt.training_ids(row.article_ids, row.target_ids)[0]) for row in rows]


def summary_tokens(rows: Sequence[EncodedRow]) -> int:
    return sum(len(row.target_ids) for row in rows)
