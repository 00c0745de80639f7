"""The training step of a config, on a model without weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from summarizer import compat
from summarizer.adapters.attach import AdaptedModel, attach
from summarizer.adapters.protocol import Adapter
from summarizer.data.batches import Batch
from summarizer.models.causal_lm import CausalLM
from summarizer.models.nll import summary_nll
from summarizer.training.fake_base import fake_base, resident
from summarizer.training.simulate import StepCost, step_cost

SUMMARY_TOKENS = 128
"""Of each row in the worst case, unless told."""


@dataclass(frozen=True)
class Microbatch:
    """The largest forward pass: what every trial has in it."""

    rows: int
    tokens: int
    """Of each row: prompt and summary together."""
    summary_tokens: int = SUMMARY_TOKENS

    @property
    def all_tokens(self) -> int:
        return self.rows * self.tokens


@dataclass(frozen=True)
class DryRun:
    """A group's model on fake tensors, whose steps can be taken but give no numbers."""

    mode: AbstractContextManager[Any]
    adapted: AdaptedModel
    dtype: torch.dtype
    """Of matrix products."""

    def cost(self, microbatch: Microbatch) -> StepCost:
        """What one forward and backward pass over that microbatch of every trial takes."""
        adapted = self.adapted
        with self.mode, adapted.training(), _full_rows(microbatch.tokens):
            batch = worst_batch(adapted, microbatch)
            adapted.draw_from(batch, [0] * adapted.group.size)
            return step_cost(
                lambda: training_loss(adapted, batch, self.dtype),
                resident(adapted),
                adapted.model.head,
            )


def dry_run(
    config: PretrainedConfig,
    format_name: str,
    adapters: Sequence[Adapter],
    dtype: torch.dtype,
    *,
    prepare: Callable[[CausalLM], None] | None = None,
    device: torch.device | None = None,
) -> DryRun:
    """A group's model in the shapes of the real one. Only the config is read, and changed: its dropout is off.

    prepare: what the run does to its model before training, such as switching checkpointing on. device: whose
    kernels are imitated; the CPU's by default, and others only on a machine that has them.
    Needs `compat.can_simulate`. Raises ConfigError as attaching does.
    """
    mode = compat.fake_tensor_mode()
    model = fake_base(config, format_name, mode, torch.device("cpu") if device is None else device)
    if prepare is not None:
        prepare(model)
    with mode:
        adapted = attach(model, adapters, list(range(len(adapters))))
    return DryRun(mode, adapted, dtype)


def training_loss(adapted: AdaptedModel, batch: Batch, dtype: torch.dtype) -> Tensor:
    """The sum of the trials' losses, as the training loop back-propagates it."""
    with nullcontext() if dtype == torch.float32 else torch.autocast(adapted.device.type, dtype):
        nll = summary_nll(adapted.model, batch)
    return (nll / batch.targets.shape[1]).sum()


def worst_batch(adapted: AdaptedModel, microbatch: Microbatch) -> Batch:
    """Full rows for every trial, laid out as the model takes them, but of zeros."""
    n, rows, tokens, device = adapted.group.size, microbatch.rows, microbatch.tokens, adapted.device
    packed = adapted.model.packs(tokens)
    shape = (n, rows * tokens) if packed else (n * rows, tokens)
    ids = torch.zeros(shape, dtype=torch.long, device=device)
    cu_seqlens = torch.zeros(n * rows + 1, dtype=torch.int32, device=device)
    summaries = torch.zeros(n, rows * microbatch.summary_tokens, dtype=torch.long, device=device)
    return Batch(
        input_ids=ids,
        position_ids=torch.zeros_like(ids) if packed else None,
        attention_mask=None if packed else torch.ones_like(ids),
        cu_seqlens=cu_seqlens if packed else None,
        positions=summaries,
        targets=torch.zeros_like(summaries),
        token_numbers=torch.zeros_like(ids),
    )


def _full_rows(tokens: int) -> AbstractContextManager[Any]:
    """Answers the one question about numbers that a step asks, on the CPU: how long each of its examples is."""

    def answer(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # int32 is the type of a batch's cu_seqlens; a step that reads other numbers cannot be planned, and says so.
        if str(operator) == "aten._local_scalar_dense.default" and args[0].dtype == torch.int32:
            return tokens
        return operator(*args, **kwargs)

    return compat.operators_seen_by(answer)
