"""Products with int8 weights on a processor, without making the weights dense."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

FEW_ROWS = 16
"""Up to here the kernel that converts weights in registers wins over a dense copy (measured on two cores with
AVX-512; it takes four rows at a time)."""
MANY_ROWS = 32
"""From here on quantising the inputs costs little beside the product."""

_whole_numbers_only = False


@contextmanager
def inputs_in_int8() -> Iterator[None]:
    """Within the block, products of many rows on a CPU are of whole numbers: the inputs are rounded to int8 too.

    Twice the rate of bf16 where the processor has VNNI, for an error of its own (experiments/quantization_error).
    For reading prompts; training never does. Not for two threads at once.
    """
    global _whole_numbers_only
    before, _whole_numbers_only = _whole_numbers_only, True
    try:
        yield
    finally:
        _whole_numbers_only = before


def product_on_cpu(
    x: Float[Tensor, "... d_in"], q: Int8[Tensor, "d_out d_in"], scale: Float32[Tensor, "d_out 1"]
) -> Float[Tensor, "... d_out"] | None:
    """x @ W.T for few rows, or in whole numbers; None where the dense way is the better one, or x is no CPU's."""
    if (
        x.device.type != "cpu"
        or x.dtype not in (torch.bfloat16, torch.float32)
        or torch.compiler.is_compiling()
    ):
        return None
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) <= FEW_ROWS:
        y = torch._weight_int8pack_mm(rows, q, _ones(len(q), x.dtype))
        return (y * scale.squeeze(1)).to(x.dtype).reshape(*x.shape[:-1], -1)
    if _whole_numbers_only and len(rows) >= MANY_ROWS:
        return whole_number_product(rows, q, scale).to(x.dtype).reshape(*x.shape[:-1], -1)
    return None


def whole_number_product(
    x: Float[Tensor, "m d_in"], q: Int8[Tensor, "d_out d_in"], scale: Float32[Tensor, "d_out 1"]
) -> Float32[Tensor, "m d_out"]:
    """x @ W.T with each row of x on its own absmax grid of int8. Sums of whole numbers are exact in int32.

    Source: the vector-wise products of Dettmers et al. 2022 (arXiv:2208.07339), without outlier columns.
    """
    step = (x.abs().amax(dim=1, keepdim=True).float() / 127).clamp_(min=torch.finfo(torch.float32).tiny)
    on_grid = (x / step).round_().to(torch.int8)
    sums = torch._int_mm(on_grid, q.t())
    return sums.float().mul_(step).mul_(scale.t())


@lru_cache(maxsize=64)
def _ones(count: int, dtype: torch.dtype) -> Tensor:
    return torch.ones(count, dtype=dtype)
