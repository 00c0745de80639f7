"""One product for a frozen linear layer and the low-rank pairs of `n` trials beside it, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from summarizer.ops.decode_gemm import LowRankPairs
from summarizer.quantization.frozen import FrozenLinear, FrozenWeight

FEW_TOKENS = 16
"""Of a trial. Up to here a CPU multiplies the pairs in their own fp32: converting them would cost more."""


def low_rank_product(
    frozen: FrozenLinear,
    x: Float[Tensor, "n m d_in"],
    dropped: Float[Tensor, "n m d_in"] | None,
    a: Float[Tensor, "n r d_in"],
    b: Float[Tensor, "n r d_out"],
    scale: Float[Tensor, "n 1 1"],
    ranks: Sequence[int],
) -> Float[Tensor, "n m d_out"]:
    """x W^T + bias + scale (x A^T) B, in the precision of x; where given, `dropped` is what the pairs multiply.

    ranks: each trial's own, at most r; its rows of A and B beyond are padding, which is not multiplied. A library
    sums a product of another width in another order, so that a trial beside wider ones would not train to the bit
    as it does alone.

    What backward needs is the pairs' input, the stored W, the pairs, and the narrow x A^T. Both adapter products
    are added in place to the frozen one's result, so that neither costs a tensor of its own size.
    """
    if dropped is None:
        many = frozen.weight.prefill_gemm(x, frozen.bias, LowRankPairs(a, b, scale))
        if many is not None:
            return many
    y: Tensor = _LowRankProduct.apply(x, dropped, a, b, scale, frozen.weight, tuple(ranks))  # type: ignore[no-untyped-call]
    return y if frozen.bias is None else y + frozen.bias.to(y.dtype)


def equal_ranks(ranks: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Neighboring trials of one rank, and that rank; trials of rank 0, which leave the layer alone, are left out."""
    start = 0
    for rank, same in groupby(ranks):
        stop = start + len(list(same))
        if rank:
            yield slice(start, stop), rank
        start = stop


class _LowRankProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        weight: FrozenWeight,
        ranks: tuple[int, ...],
    ) -> Tensor:
        inputs = x if dropped is None else dropped
        ctx.weight, ctx.dropped, ctx.ranks = weight, dropped is not None, ranks
        few = x.device.type == "cpu" and x.shape[1] <= FEW_TOKENS
        y = weight.matmul(x)
        narrow = []
        for trials, r in equal_ranks(ranks):
            own_a, own_b, own_scale = a[trials, :r], b[trials, :r], scale[trials]
            if few:
                own = torch.bmm(inputs[trials].to(a.dtype), own_a.transpose(1, 2)) * own_scale
                y[trials].add_(torch.bmm(own, own_b))
            else:
                own = torch.bmm(inputs[trials], own_a.to(x.dtype).transpose(1, 2)) * own_scale.to(x.dtype)
                y[trials].baddbmm_(own, own_b.to(x.dtype))
            narrow.append(own.to(x.dtype))
        ctx.save_for_backward(inputs, a, b, scale, *narrow)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, a, b, scale, *narrow = ctx.saved_tensors
        (grad,) = grads
        padded = len(set(ctx.ranks)) > 1
        grad_a, grad_b = (torch.zeros_like(each) if padded else torch.empty_like(each) for each in (a, b))
        grad_x = ctx.weight.matmul_backward(grad) if ctx.needs_input_grad[0] else None
        grad_dropped = torch.zeros_like(inputs) if grad_x is not None and ctx.dropped else None
        for (trials, r), own in zip(equal_ranks(ctx.ranks), narrow, strict=True):
            own_a, own_b = a[trials, :r].to(grad.dtype), b[trials, :r].to(grad.dtype)
            grad_own = torch.bmm(grad[trials], own_b.transpose(1, 2)) * scale[trials].to(grad.dtype)
            grad_a[trials, :r] = torch.bmm(grad_own.transpose(1, 2), inputs[trials])
            grad_b[trials, :r] = torch.bmm(own.transpose(1, 2), grad[trials])
            if grad_dropped is not None:
                grad_dropped[trials] = torch.bmm(grad_own, own_a)
            elif grad_x is not None:
                grad_x[trials].baddbmm_(grad_own, own_a)
        return grad_x, grad_dropped, grad_a, grad_b, None, None, None
