"""Columns by a factor of each, in their own precision: scaled_columns.c, or torch's product and conversion."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from summarizer.ops.compiled import kernels, library
from summarizer.ops.operators import count, define, is_eager, numbers_of, threads

SOURCE = Path(__file__).with_name("scaled_columns.c")


def scaled_columns(
    x: Float[Tensor, "... columns"], factor: Float32[Tensor, " columns"]
) -> Float[Tensor, "... columns"]:
    """x * factor, rounded once to the precision of x."""
    if not _takes(x):
        return (x * factor).to(x.dtype)
    y: Tensor = torch.ops.summarizer.scaled_columns(x, factor)
    return y


def scale_columns_(x: Float[Tensor, "... columns"], factor: Float32[Tensor, " columns"]) -> Tensor:
    """The same in the place of x where that is possible: x is not to be used again."""
    if not _takes(x) or not x.is_contiguous():
        return scaled_columns(x, factor)
    torch.ops.summarizer.scale_columns_(x, factor)
    return x


def _takes(x: Tensor) -> bool:
    return is_eager(x, torch.bfloat16) and library(SOURCE) is not None


def _scaled(x: Tensor, factor: Tensor) -> Tensor:
    x, y = x.contiguous(), _made(x, factor)
    _scale(x, factor, y)
    return y


def _scale_in_place(x: Tensor, factor: Tensor) -> None:
    _scale(x, factor, x)


def _scale(x: Tensor, factor: Tensor, y: Tensor) -> None:
    factor, columns = factor.contiguous(), x.shape[-1]
    assert factor.dtype == torch.float32, "factors are in fp32"
    assert factor.shape == (columns,), "one factor for each column"
    kernels(SOURCE).scaled_columns(
        numbers_of(x),
        numbers_of(factor),
        count(x.numel() // max(columns, 1)),
        count(columns),
        numbers_of(y),
        threads(),
    )


def _made(x: Tensor, factor: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _made_in_place(x: Tensor, factor: Tensor) -> None:
    return None


define("scaled_columns(Tensor x, Tensor factor) -> Tensor", _scaled, _made)
define("scale_columns_(Tensor(a!) x, Tensor factor) -> ()", _scale_in_place, _made_in_place)
