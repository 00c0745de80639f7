"""Products with int8 weights on a processor, without making the weights dense."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Float32, Int8, Int64
from torch import Tensor

from summarizer import compat
from summarizer.ops import many_rows
from summarizer.ops.few_rows import LowRankPairs, are_few_in_place, is_in_place

MANY_ROWS = 32
"""From here on quantizing the inputs costs little beside the product."""
LARGEST_COLUMNS = 32
"""One in so many columns of the inputs is kept apart. KL to fp32 at summary tokens, SmolLM2-135M on four real rows:
bf16 products 0.0016 nats, whole numbers with none apart 0.022, 1 in 64 0.0070, 1 in 32 0.0041, 1 in 16 0.0033, all
(what a prompt is read with otherwise, where many_rows.c is compiled, at half the speed) 0.0006."""
LEVELS = 127
"""Steps on each side of zero, as of the weights."""
WIDE_LEVELS = 127 * 256 + 127
"""The same of the largest columns: what two signed bytes hold."""
SMALLEST_STEP = 1e-30
"""Of a row's grid; a row of smaller numbers counts as zeros."""

_whole_numbers_only = False


@contextmanager
def inputs_in_int8() -> Iterator[None]:
    """Within the block, a CPU's products of many rows are of whole numbers: most inputs are rounded to int8.

    About twice as fast where the processor has VNNI, for an error of its own (LARGEST_COLUMNS). For reading
    prompts; training never does. Not for two threads at once.
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
        y = compat.int8_weight_mm(rows, q)
        return (y * scale.squeeze(1)).to(x.dtype).reshape(*x.shape[:-1], -1)
    if _are_in_whole_numbers(rows):
        return whole_number_product(rows, q, scale).reshape(*x.shape[:-1], -1)
    return None


def _is_laid_out_for_the_kernel(q: Int8[Tensor, "d_out d_in"]) -> bool:
    """torch's kernel reads 16 weights at a time and crashes on others (seen with 2.13, in bf16)."""
    return q.data_ptr() % 16 == 0 and q.shape[1] % 16 == 0


def many_rows_product(
    x: Float[Tensor, "m d_in"],
    q: Int8[Tensor, "d_out d_in"],
    scale: Float32[Tensor, "d_out 1"],
    bias: Float[Tensor, " d_out"] | None,
    pairs: LowRankPairs | None,
) -> Float[Tensor, "m d_out"] | None:
    """x @ W.T + bias and what adapters add, in one kernel. None where there is none, or it is not for x."""
    rounded = _are_in_whole_numbers(x)
    in_place = is_in_place(x) and not are_few_in_place(x)
    if not (rounded or in_place) or not many_rows.is_at_hand():
        return None
    return many_rows.int8_product(x, q, scale, _largest_columns(x) if rounded else None, bias, pairs)


def _are_in_whole_numbers(rows: Float[Tensor, "m d_in"]) -> bool:
    return (
        _whole_numbers_only
        and len(rows) >= MANY_ROWS
        and rows.device.type == "cpu"
        and rows.dtype in (torch.bfloat16, torch.float32)
        and not torch.compiler.is_compiling()
    )


def whole_number_product(
    x: Float[Tensor, "m d_in"], q: Int8[Tensor, "d_out d_in"], scale: Float32[Tensor, "d_out 1"]
) -> Float[Tensor, "m d_out"]:
    """x @ W.T in x's precision: each row of x on its own grid of int8, and of 16 bits in its largest columns.

    A few columns are far larger than the rest in any trained model, and would leave the rest few steps of the grid.
    Source: LLM.int8(), Dettmers et al. 2022 (arXiv:2208.07339), a fixed share of columns for its threshold, and
    with more steps of the same grid for these, instead of numbers in 16 bits.
    """
    largest = _largest_columns(x)
    if many_rows.is_at_hand():
        return many_rows.int8_product(x, q, scale, largest)
    dtype, x = x.dtype, x.float()
    size = x.abs()
    step = torch.maximum(
        size.index_fill(1, largest, 0.0).amax(dim=1, keepdim=True) / LEVELS,
        size.amax(dim=1, keepdim=True) / WIDE_LEVELS,
    )
    step.masked_fill_(~x.isfinite().all(dim=1, keepdim=True), torch.nan)
    whole = (x * torch.where(step > SMALLEST_STEP, 1 / step, 0.0)).nan_to_num_(0.0).round_().to(torch.int32)
    high = (whole + 128) >> 8  # 256 high + low, each of a signed byte
    low = whole - (high << 8)
    sums = compat.int8_mm(low.to(torch.int8), q.t()).float()  # exact, in int32
    apart = compat.int8_mm(high[:, largest].to(torch.int8), q[:, largest].t())
    return (sums + 256 * apart.float()).mul_(step).mul_(scale.t()).to(dtype)


def _largest_columns(x: Float[Tensor, "m d_in"]) -> Int64[Tensor, " apart"]:
    absmax = many_rows.column_absmax(x) if many_rows.is_at_hand() else x.float().abs().amax(dim=0)
    return absmax.topk(max(x.shape[1] // LARGEST_COLUMNS, 1)).indices.sort().values
