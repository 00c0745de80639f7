"""Frozen layers, adapters' pairs and rows for the kernels' tests, and what their product is in fp64."""

from __future__ import annotations

import torch
from torch import Tensor

from summarizer.ops.decode_gemm import LowRankPairs, stored_weights_in_place
from summarizer.quantization import weight_format
from summarizer.quantization.frozen import FrozenLinear, FrozenWeight


def layer(
    format_name: str, d_in: int, d_out: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> FrozenLinear:
    generator = torch.Generator().manual_seed(seed)
    weight = FrozenWeight(format_name, (d_out, d_in))
    drawn = torch.randn(d_out, d_in, generator=generator).to(dtype)
    weight.load(weight_format(format_name).quantize(drawn))
    linear = FrozenLinear(weight, bias=True)
    linear.bias = torch.randn(d_out, generator=generator)
    return linear


@torch.no_grad()
def product(linear: FrozenLinear, x: Tensor, pairs: LowRankPairs | None = None) -> Tensor:
    """By the kernel for few rows, which must be there."""
    with stored_weights_in_place():
        y = linear.weight.decode_gemm(x, linear.bias, pairs)
    assert y is not None, "the kernel was not taken"
    return y


def pairs_of(trials: int, dim: int, d_in: int, d_out: int) -> LowRankPairs:
    generator = torch.Generator().manual_seed(1)
    return LowRankPairs(
        torch.randn(trials, dim, d_in, generator=generator) * d_in**-0.5,
        torch.randn(trials, dim, d_out, generator=generator),
        torch.rand(trials, 1, 1, generator=generator) + 0.5,
    )


def rows_of(count: int, d_in: int) -> Tensor:
    return torch.randn(count, d_in, generator=torch.Generator().manual_seed(2))


def wanted(linear: FrozenLinear, x: Tensor, pairs: LowRankPairs | None) -> Tensor:
    assert linear.bias is not None
    y = x.double() @ linear.weight.dense(torch.float32).double().T + linear.bias.double()
    if pairs is None:
        return y
    of_trials = x.double().reshape(len(pairs.a), -1, x.shape[1])
    narrow = of_trials @ pairs.a.double().transpose(1, 2) * pairs.scale.double()
    return y + (narrow @ pairs.b.double()).reshape(y.shape)
