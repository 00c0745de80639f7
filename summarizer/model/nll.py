"""Negative log-likelihood of summaries, and of nothing else."""

from __future__ import annotations

import inspect
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from summarizer.data.batches import IGNORED_LABEL


def summary_nll(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "rows t"],
    attention_mask: Int[Tensor, "rows t"],
    labels: Int[Tensor, "rows t"],
) -> Float[Tensor, " rows"]:
    """Negative log-likelihood, in nats, of each row's summary, summed over its tokens.

    The head runs only at positions that predict a summary token in some row: it is the widest layer of all,
    and a summary is short beside its article.
    """
    targets = labels[:, 1:]
    positions = (targets != IGNORED_LABEL).any(dim=0).nonzero().squeeze(1)
    more: dict[str, Any] = {}
    if keeps_logits(model):
        more["logits_to_keep"] = positions
    logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **more).logits
    if not more:
        logits = logits[:, positions]
    losses = F.cross_entropy(
        logits.float().transpose(1, 2), targets[:, positions], ignore_index=IGNORED_LABEL, reduction="none"
    )
    return losses.sum(dim=1)


def keeps_logits(model: PreTrainedModel) -> bool:
    """Whether the model's forward pass can be told at which positions to run its head."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters
