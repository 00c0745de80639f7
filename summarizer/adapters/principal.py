"""Pairs that start as a part of the base weight itself, which the layer then computes without.

PiSSA (Meng et al. 2024, arXiv:2404.02948) starts from the largest singular values and their vectors, OLoRA
(Büyükakyüz 2024, arXiv:2406.01775) from the first columns of Q and rows of R. The base stays as it is stored: the
pair that training starts from is kept beside the trained one and subtracted, where peft changes the weight. So
scale B A - scale B0 A0 is a low-rank pair of twice the rank, and that is how such an adapter is saved.
"""

from __future__ import annotations

import re

import torch
from jaxtyping import Float
from torch import Tensor

OVERSAMPLED = 8
"""Directions beyond those asked for that an approximate decomposition follows."""


def principal_pair(
    weight: Float[Tensor, "d_out d_in"], method: str, dim: int, scale: float, generator: torch.Generator
) -> tuple[Float[Tensor, "r d_in"], Float[Tensor, "r d_out"]]:
    """A and B, as `r` rows: scale B^T A is taken from the weight, and given back by the pair that starts so.

    method: `pissa`, `pissa_niter_N` (by N rounds of subspace iteration) or `olora`, as peft's `init_lora_weights`.
    """
    if method == "olora":
        # The first columns of a weight's Q, and rows of its R, are those of its first columns alone.
        q = torch.linalg.qr(weight[:, :dim]).Q
        return (q.t() @ weight).contiguous(), q.t().contiguous()
    rounds = re.fullmatch(r"pissa_niter_(\d+)", method)
    if rounds is None:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    else:
        u, s, vh = _leading(weight, dim, int(rounds[1]), generator)
    root = (s[:dim] / scale).sqrt()[:, None]
    return (root * vh[:dim]).contiguous(), (root * u[:, :dim].t()).contiguous()


def _leading(
    weight: Float[Tensor, "d_out d_in"], count: int, rounds: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The first singular vectors and values, by subspace iteration.

    Source: Halko et al. 2011 (arXiv:0909.4061), algorithms 4.4 and 5.1.
    """
    width = min(count + OVERSAMPLED, *weight.shape)
    guess = torch.randn(weight.shape[1], width, generator=generator).to(weight.device)
    basis = torch.linalg.qr(weight @ guess).Q
    for _ in range(rounds):
        basis = torch.linalg.qr(weight.t() @ basis).Q
        basis = torch.linalg.qr(weight @ basis).Q
    u, s, vh = torch.linalg.svd(basis.t() @ weight, full_matrices=False)
    return basis @ u, s, vh
