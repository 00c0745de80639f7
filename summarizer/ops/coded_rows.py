"""Products of a few rows with weights in bytes that a table decodes: coded_rows.c for torch's tensors."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from summarizer.ops.compiled import library
from summarizer.ops.few_rows import LowRankPairs, stored_product

SOURCE = Path(__file__).with_name("coded_rows.c")


def is_at_hand() -> bool:
    """Whether this machine has a processor and a compiler for it."""
    return library(SOURCE) is not None


def blockwise8_product(
    x: Float32[Tensor, "m d_in"],
    q: UInt8[Tensor, "d_out d_in"],
    absmax: Float32[Tensor, " blocks"],
    code: Float32[Tensor, " 256"],
    bias: Float[Tensor, " d_out"] | None = None,
    pairs: LowRankPairs | None = None,
) -> Float32[Tensor, "m d_out"]:
    """x W^T + bias + the pairs' products, W in blocks of 4,096 weights with an absmax. Only where `is_at_hand`.

    x is rounded to 16 bits of each row's largest value, the code to 16 bits of its own. A row's result is the same
    to the last bit whatever the other rows are.
    """
    return stored_product(SOURCE, "blockwise8_product", x, q.shape[0], (q, absmax, code), bias, pairs)


def fp8_product(
    x: Float32[Tensor, "m d_in"],
    q: Float[Tensor, "d_out d_in"],
    scale: Float32[Tensor, "d_out 1"],
    bias: Float[Tensor, " d_out"] | None = None,
    pairs: LowRankPairs | None = None,
) -> Float32[Tensor, "m d_out"]:
    """The same of W in e4m3 with a scale for each row, its numbers rounded to 16 bits of the largest, 448."""
    return stored_product(SOURCE, "fp8_product", x, q.shape[0], (q, scale, _e4m3()), bias, pairs)


@cache
def _e4m3() -> Float32[Tensor, " 256"]:
    """The number of each byte; 0 for the two that stand for NaN, which no finite weight is stored as."""
    return torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().nan_to_num(0.0)
