"""Products with int8 weights on a processor, without making the weights dense."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

from summarizer.model.kernels import many_rows
from summarizer.model.kernels.few_rows import are_few_in_place

MANY_ROWS = 32
"""From here on quantising the inputs costs little beside the product."""
LARGEST_COLUMNS = 32
"""One in so many columns of the inputs is kept apart. KL to fp32 at summary tokens, SmolLM2-135M on four real rows:
bf16 products 0.0014 nats, whole numbers with none apart 0.029, 1 in 64 0.0078, 1 in 32 0.0042, 1 in 16 0.0030."""
LEVELS = 127
"""Steps on each side of zero, as of the weights."""

_whole_numbers_only = False


@contextmanager
def inputs_in_int8() -> Iterator[None]:
    """Within the block, a CPU's products of many rows are of whole numbers: most inputs are rounded to int8.

    Faster than bf16 where the processor has VNNI, for an error of its own (LARGEST_COLUMNS). For reading prompts;
    training never does. Not for two threads at once.
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
    rows = x.reshape(-1, x.shape[-1])
    if are_few_in_place(rows) and _is_laid_out_for_the_kernel(q):
        y = torch._weight_int8pack_mm(rows, q, _ones(len(q), x.dtype))
        return (y * scale.squeeze(1)).to(x.dtype).reshape(*x.shape[:-1], -1)
    if (
        _whole_numbers_only
        and len(rows) >= MANY_ROWS
        and x.device.type == "cpu"
        and x.dtype in (torch.bfloat16, torch.float32)
        and not torch.compiler.is_compiling()
    ):
        return whole_number_product(rows, q, scale).reshape(*x.shape[:-1], -1)
    return None


def _is_laid_out_for_the_kernel(q: Int8[Tensor, "d_out d_in"]) -> bool:
    """torch's kernel reads 16 weights at a time and crashes on others (seen with 2.13, in bf16)."""
    return q.data_ptr() % 16 == 0 and q.shape[1] % 16 == 0


def whole_number_product(
    x: Float[Tensor, "m d_in"], q: Int8[Tensor, "d_out d_in"], scale: Float32[Tensor, "d_out 1"]
) -> Float[Tensor, "m d_out"]:
    """x @ W.T in x's precision: each row of x on its own absmax grid of int8, its largest columns apart in bf16.

    A few columns are far larger than the rest in any trained model, and would leave the rest few steps of the grid.
    Source: LLM.int8(), Dettmers et al. 2022 (arXiv:2208.07339), with a fixed share of columns for its threshold.
    """
    count = max(x.shape[1] // LARGEST_COLUMNS, 1)
    if many_rows.is_at_hand():
        return many_rows.whole_number_product(x, q, scale, count)
    dtype, x = x.dtype, x.float()
    largest = x.abs().amax(dim=0).topk(count).indices
    apart = x[:, largest].to(torch.bfloat16) @ q[:, largest].to(torch.bfloat16).t()
    x = x.index_fill(1, largest, 0.0)
    step = (x.abs().amax(dim=1, keepdim=True) / LEVELS).clamp_(min=torch.finfo(torch.float32).tiny)
    sums = torch._int_mm((x / step).round_().to(torch.int8), q.t())  # exact, in int32
    return (sums.float().mul_(step) + apart).mul_(scale.t()).to(dtype)


@lru_cache(maxsize=64)
def _ones(count: int, dtype: torch.dtype) -> Tensor:
    return torch.ones(count, dtype=dtype)
