"""Negative log-likelihood of summaries, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from summarizer.data.batches import IGNORED_LABEL, Batch


def summary_nll(model: PreTrainedModel, batch: Batch) -> Float[Tensor, " n"]:
    """Negative log-likelihood, in nats, of each trial's summaries, summed over their tokens."""
    return token_nll(model, batch).sum(dim=1)


def token_nll(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "n m"]:
    """The same of each token, as `batch.targets` has them; 0 where a trial has fewer than the others."""
    placed = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    with head_at(model, batch.positions):
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **placed
        ).logits
    losses = F.cross_entropy(
        logits.float().flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
    )
    return losses.reshape(batch.targets.shape)


@contextmanager
def head_at(model: PreTrainedModel, positions: Int[Tensor, "n m"]) -> Iterator[None]:
    """Within the block, the head sees a trial's tokens at its `positions` alone.

    It is the widest layer of all, and a summary is short beside its article.
    """

    def gathered(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        (hidden,) = inputs
        of_trial = hidden.reshape(len(positions), -1, hidden.shape[-1])
        return (of_trial.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1])),)

    handle = model.get_output_embeddings().register_forward_pre_hook(gathered)
    try:
        yield
    finally:
        handle.remove()
