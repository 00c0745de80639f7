"""Gradient clipping of all trials of a group, each by its own norm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from summarizer import compat


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
    # Filled there: a tensor made of a list would be copied to the card, and the copy waited for.
    bounds = torch.cat([norms.new_full((1,), math.inf if limit is None else limit) for limit in limits])
    factors = (bounds / (norms + 1e-6)).clamp(max=1.0).unbind()
    for own, limit, factor in zip(gradients, limits, factors, strict=True):
        if limit is not None:
            compat.foreach_mul_(list(own), factor)
    return norms
