"""One product for a frozen linear layer and the low-rank pairs of `n` trials beside it, forward and backward."""

from __future__ import annotations

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
) -> Float[Tensor, "n m d_out"]:
    """x W^T + bias + scale (x A^T) B, in the precision of x; where given, `dropped` is what the pairs multiply.

    What backward needs is the pairs' input, the stored W, the pairs, and the narrow x A^T. Both adapter products
    are added in place to the frozen one's result, so that neither costs a tensor of its own size.
    """
    if dropped is None:
        many = frozen.weight.prefill_gemm(x, frozen.bias, LowRankPairs(a, b, scale))
        if many is not None:
            return many
    y: Tensor = _LowRankProduct.apply(x, dropped, a, b, scale, frozen.weight)  # type: ignore[no-untyped-call]
    return y if frozen.bias is None else y + frozen.bias.to(y.dtype)


class _LowRankProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, a: Tensor, b: Tensor, scale: Tensor, weight: FrozenWeight
    ) -> Tensor:
        inputs = x if dropped is None else dropped
        ctx.weight, ctx.dropped = weight, dropped is not None
        if x.device.type == "cpu" and x.shape[1] <= FEW_TOKENS:
            narrow = torch.bmm(inputs.to(a.dtype), a.transpose(1, 2)) * scale
            ctx.save_for_backward(inputs, a, b, scale, narrow.to(x.dtype))
            return weight.matmul(x).add_(torch.bmm(narrow, b))
        narrow = torch.bmm(inputs, a.to(x.dtype).transpose(1, 2)) * scale.to(x.dtype)
        ctx.save_for_backward(inputs, a, b, scale, narrow)
        return weight.matmul(x).baddbmm_(narrow, b.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, a, b, scale, narrow = ctx.saved_tensors
        (grad,) = grads
        grad_narrow = torch.bmm(grad, b.to(grad.dtype).transpose(1, 2)) * scale.to(grad.dtype)
        grad_a = torch.bmm(grad_narrow.transpose(1, 2), inputs).to(a.dtype)
        grad_b = torch.bmm(narrow.transpose(1, 2), grad).to(b.dtype)
        if not ctx.needs_input_grad[0]:
            return None, None, grad_a, grad_b, None, None
        grad_x = ctx.weight.matmul_backward(grad)
        if ctx.dropped:
            return grad_x, torch.bmm(grad_narrow, a.to(grad.dtype)), grad_a, grad_b, None, None
        return grad_x.baddbmm_(grad_narrow, a.to(grad.dtype)), None, grad_a, grad_b, None, None
