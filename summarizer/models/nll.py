"""Negative log-likelihood of summaries, and of nothing else."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from summarizer.data.batches import IGNORED_LABEL, Batch
from summarizer.models.causal_lm import CausalLM


def summary_nll(model: CausalLM, batch: Batch) -> Float[Tensor, " n"]:
    """Negative log-likelihood, in nats, of each trial's summaries, summed over their tokens."""
    return token_nll(model, batch).sum(dim=1)


def token_nll(model: CausalLM, batch: Batch) -> Float[Tensor, "n m"]:
    """The same of each token, as `batch.targets` has them; 0 where a trial has fewer than the others."""
    logits = model.summary_logits(batch)
    losses = F.cross_entropy(
        logits.float().flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
    )
    return losses.reshape(batch.targets.shape)
