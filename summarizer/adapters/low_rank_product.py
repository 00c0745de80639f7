"""Low-rank pairs beside a frozen linear layer: y = gain (W x + scale B A x) + bias, for trials of several dims.

A library sums a product of another width in another order. So that a trial beside wider ones trains to the bit as
it does alone, each trial's own rows are multiplied, and never the zeros that pad them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from summarizer.adapters.protocol import Stacked
from summarizer.ops.decode_gemm import LowRankPairs
from summarizer.ops.elementwise import column_dots, scale_columns_
from summarizer.ops.low_rank import add_widened_, narrowed, row_sums
from summarizer.quantization.frozen import FrozenLinear, FrozenWeight
from summarizer.quantization.protocol import Gain


@dataclass(frozen=True)
class Pair:
    """One pair of matrices of each trial."""

    a: Float[Tensor, "n r d_in"]
    b: Float[Tensor, "n r d_out"]
    dims: tuple[int, ...]
    """Each trial's own rows of both, 0 for one without."""
    sign: int = 1
    """-1 takes away what the pair adds."""
    sees_dropout: bool = True
    """False multiplies the input as the frozen layer sees it."""


def low_rank_product(
    frozen: FrozenLinear,
    x: Float[Tensor, "n m d_in"],
    dropped: Float[Tensor, "n m d_in"] | None,
    pairs: Sequence[Pair],
    scale: Float[Tensor, "n 1 1"],
    gain: Gain = None,
) -> Float[Tensor, "n m d_out"]:
    """gain (x W^T + scale (x A^T) B) + bias, in the precision of x; where given, `dropped` is what pairs multiply.

    What backward needs is the pairs' input, the stored W, the pairs, the narrow x A^T, and where there are gains
    the output. What pairs and gains do is done in place to the frozen product: it costs no tensor of its size.
    """
    if dropped is None and len(pairs) == 1:
        stored = LowRankPairs(pairs[0].a, pairs[0].b, scale)
        many = frozen.weight.prefill_gemm(x, frozen.bias if gain is None else None, stored)
        if many is not None:
            return many if gain is None else _with_bias(scale_columns_(many, gain), frozen)
    layout = [(pair.dims, pair.sign, pair.sees_dropout) for pair in pairs]
    tensors = [tensor for pair in pairs for tensor in (pair.a, pair.b)]
    inputs = x, dropped, scale, gain, frozen.weight, layout, *tensors
    y: Tensor = _LowRankProduct.apply(*inputs)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return _with_bias(y, frozen)


def _with_bias(y: Float[Tensor, "n m d_out"], frozen: FrozenLinear) -> Float[Tensor, "n m d_out"]:
    return y if frozen.bias is None else y + frozen.bias.to(y.dtype)


def plain_pairs_product(
    frozen: FrozenLinear,
    x: Float[Tensor, "n m d_in"],
    dropped: Float[Tensor, "n m d_in"] | None,
    stacked: Stacked,
) -> Float[Tensor, "n m d_out"]:
    """`low_rank_product` for a kind whose `prepared` makes a plain pair `a`, `b` of what it trains."""
    pair = Pair(stacked["a"], stacked["b"], stacked.sizes["a"])
    return low_rank_product(frozen, x, dropped, [pair], stacked.scale)


def decode_plain_pairs(
    frozen: FrozenLinear, x: Float[Tensor, "... d_in"], stacked: Stacked
) -> Float[Tensor, "... d_out"] | None:
    """`Adapter.decode_linear` for such a kind: None where nothing was prepared."""
    if "a" not in stacked:
        return None
    pairs = LowRankPairs(stacked["a"], stacked["b"], stacked.scale)
    return frozen.weight.decode_gemm(x, frozen.bias, pairs)


class _LowRankProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        scale: Tensor,
        gain: Tensor | None,
        weight: FrozenWeight,
        layout: list[tuple[tuple[int, ...], int, bool]],
        *tensors: Tensor,
    ) -> Tensor:
        y = weight.matmul(x, gain)
        narrow: list[Tensor] = []
        ctx.parts = []
        for (dims, sign, sees_dropout), a, b in zip(layout, tensors[::2], tensors[1::2], strict=True):
            inputs = x if dropped is None or not sees_dropout else dropped
            own = narrowed(inputs, a, _signed(scale, sign), dims)
            add_widened_(y, own, _gained(b, gain), dims)
            ctx.parts.append(len(own))
            narrow += own
        ctx.weight, ctx.layout = weight, layout
        kept_x = x if dropped is None or not all(sees_dropout for *_, sees_dropout in layout) else None
        ctx.save_for_backward(kept_x, dropped, scale, gain, None if gain is None else y, *tensors, *narrow)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, dropped, scale, gain, y, *saved = ctx.saved_tensors
        (grad,) = grads
        count = 2 * len(ctx.layout)
        tensors, narrow = saved[:count], iter(saved[count:])
        grad_gain = None if gain is None else column_dots(grad, y) / gain
        grad_x = ctx.weight.matmul_backward(grad, gain) if ctx.needs_input_grad[0] else None
        grad_dropped = torch.zeros_like(dropped) if grad_x is not None and dropped is not None else None
        of_pairs: list[Tensor | None] = []
        for (dims, sign, sees_dropout), parts, a, b in zip(
            ctx.layout, ctx.parts, tensors[::2], tensors[1::2], strict=True
        ):
            place = FIRST_PAIR + len(of_pairs)
            seen = (x, grad_x) if dropped is None or not sees_dropout else (dropped, grad_dropped)
            inputs, grad_inputs = seen
            own = list(islice(narrow, parts))
            grad_own = narrowed(grad, _gained(b, gain), _signed(scale, sign), dims)
            of_pairs += None, None
            if ctx.needs_input_grad[place]:
                of_pairs[-2] = row_sums(grad_own, inputs, a.shape[1], dims).to(a.dtype)
            if ctx.needs_input_grad[place + 1]:
                of_pairs[-1] = _gained(row_sums(own, grad, b.shape[1], dims).to(b.dtype), gain)
            if grad_inputs is not None:
                add_widened_(grad_inputs, grad_own, a, dims)
        return grad_x, grad_dropped, None, grad_gain, None, None, *of_pairs


FIRST_PAIR = 6
"""Place of the first pair's A among the inputs of the product."""


def _signed(scale: Float[Tensor, "n 1 1"], sign: int) -> Float[Tensor, "n 1 1"]:
    return scale if sign == 1 else -scale


def _gained(rows: Float[Tensor, "n r d_out"], gain: Gain) -> Float[Tensor, "n r d_out"]:
    return rows if gain is None else rows * gain
