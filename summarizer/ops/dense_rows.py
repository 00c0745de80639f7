"""Products of a few rows with weights as checkpoints have them: dense_rows.c for torch's tensors."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from summarizer.ops.compiled import library
from summarizer.ops.few_rows import LowRankPairs, stored_product

SOURCE = Path(__file__).with_name("dense_rows.c")
_KERNELS = {torch.float32: "fp32_product", torch.bfloat16: "bf16_product", torch.float16: "fp16_product"}


def is_at_hand(dtype: torch.dtype) -> bool:
    """Whether this machine has a processor and a compiler for it, and weights are of a type that it reads."""
    return dtype in _KERNELS and library(SOURCE) is not None


def dense_product(
    x: Float32[Tensor, "m d_in"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, " d_out"] | None = None,
    pairs: LowRankPairs | None = None,
) -> Float32[Tensor, "m d_out"]:
    """x W^T + bias + the pairs' products, all in fp32. Only where `is_at_hand`.

    A row's result is the same to the last bit whatever the other rows are.
    """
    return stored_product(SOURCE, _KERNELS[weight.dtype], x, weight.shape[0], (weight,), bias, pairs)
