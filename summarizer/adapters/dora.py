"""DoRA's gain: each row of W + scale B A keeps its direction and takes a learned length.

Source: Liu et al. 2024 (arXiv:2402.09353): y = m (W + scale B A) x / |W + scale B A|, the norm of each row (of each
column of an embedding) without a gradient, as section 4.3 has it. With dropout the pair alone sees dropped inputs;
peft drops those of W too, in all but the share that W had before.

The norm comes from what is known already, by a product of r rows with W in the place of a dense matrix:
|W + s B A|^2 = |W|^2 + 2 s B . (A W^T) + s^2 B (A A^T) B^T.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from summarizer.adapters.protocol import as_mask
from summarizer.ops.decode_gemm import stored_weights_in_place
from summarizer.ops.low_rank import equal_dims
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear

FEW_ROWS = 32
"""Rows of A that take as long by a CPU's kernels for decoding as by a dense copy in bf16. Two take a third to a
tenth of it, 64 half as much again (two cores with AVX-512; int8 and nf4; 1536 x 576 and 4096 x 4096; Nov. 2026)."""
ROWS_AT_ONCE = 4096
"""Of a weight that is made dense to be measured: the largest would take a gigabyte."""


def magnitude(frozen: FrozenLinear | FrozenEmbedding) -> Float[Tensor, "1 d_out"]:
    """The length of each row of a linear layer's weight, or of each column of an embedding's."""
    return _squares(frozen).sqrt()[None]


def gain(
    frozen: FrozenLinear | FrozenEmbedding,
    a: Float[Tensor, "n r d_in"],
    b: Float[Tensor, "n r d_out"],
    m: Float[Tensor, "n 1 d_out"],
    scale: Float[Tensor, "n 1 1"],
    dims: tuple[int, ...],
) -> Float[Tensor, "n 1 d_out"]:
    """m over the lengths that the weights have with their pairs; its gradient is m's alone.

    dims: each trial's own rows of a and b; 0 for one that learns no lengths, whose gain is 1.
    """
    device = a.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else a.dtype
    with torch.no_grad(), torch.autocast(device, enabled=False):
        squares = _squares(frozen)
        norms = torch.ones_like(m)
        for trials, r in equal_dims(dims):
            own_a, own_b, own_scale = a[trials, :r], b[trials, :r], scale[trials]
            inner = torch.bmm(own_a, own_a.transpose(1, 2))
            half = _products(frozen, own_a, dtype) + 0.5 * own_scale * torch.bmm(inner, own_b)
            added = (own_b * half).sum(dim=1, keepdim=True)
            norms[trials] = (squares + 2 * own_scale * added).clamp_min(0).sqrt()
    if all(dims):
        return m / norms
    return torch.where(as_mask(dims, scale), m / norms, 1.0)


def _products(
    frozen: FrozenLinear | FrozenEmbedding, a: Float[Tensor, "n r d_in"], dtype: torch.dtype
) -> Float[Tensor, "n r d_out"]:
    """A W^T; of an embedding, whose A reads its rows, A W.  dtype: of products where no kernel takes fp32."""
    if isinstance(frozen, FrozenEmbedding):
        return frozen.weight.matmul_backward(a.to(dtype)).float()
    rows = a.reshape(-1, a.shape[-1])
    if len(rows) <= FEW_ROWS:
        # Multiplied in fp32 with W as it is stored, for a fraction of what a copy of W takes.
        with stored_weights_in_place():
            parts = [frozen.weight.decode_gemm(part) for part in rows.split(frozen.weight.format.decode_rows)]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            return torch.cat(known).reshape(*a.shape[:-1], -1)
    return frozen.weight.matmul(a.to(dtype)).float()


def _squares(frozen: FrozenLinear | FrozenEmbedding) -> Float[Tensor, " d_out"]:
    """The squared lengths, measured once for each weight and side of it."""
    weight, by_column = frozen.weight, isinstance(frozen, FrozenEmbedding)
    if (known := weight.squares.get(by_column)) is not None:
        return known
    total = torch.zeros(weight.shape[1] if by_column else 0, device=weight.device)
    parts = []
    for start in range(0, weight.shape[0], ROWS_AT_ONCE):
        ids = torch.arange(start, min(start + ROWS_AT_ONCE, weight.shape[0]), device=weight.device)
        part = weight.rows(ids, torch.float32).square()
        if by_column:
            total += part.sum(dim=0)
        else:
            parts.append(part.sum(dim=1))
    weight.squares[by_column] = total if by_column else torch.cat(parts)
    return weight.squares[by_column]
