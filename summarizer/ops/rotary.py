"""Rotary position embeddings, as GPT-J and as Llama has them: rotary.c for tensors in bf16 on a CPU."""

from __future__ import annotations

from ctypes import c_int
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from summarizer.ops.compiled import kernels, library
from summarizer.ops.operators import count, define, is_eager, numbers_of, threads

SOURCE = Path(__file__).with_name("rotary.c")


def takes(x: Tensor, cos: Tensor) -> bool:
    """Whether the kernel is made for such numbers, by such a table, and for this machine."""
    return is_eager(x, torch.bfloat16) and is_eager(cos, torch.float32) and library(SOURCE) is not None


def rotated(
    x: Float[Tensor, "rows t heads d"],
    cos: Float[Tensor, "#rows t width"],
    sin: Float[Tensor, "#rows t width"],
    *,
    neighbors: bool,
) -> Float[Tensor, "rows t heads d"]:
    """Turn pairs of a head's numbers by their token's angles, in fp32. Only where `takes`.

    neighbors: the first 2 width of a head turn, number 2i with 2i + 1; else the first width, number i with
    width / 2 + i. The others stay.
    """
    y: Tensor = _Rotation.apply(x, cos, sin, neighbors)  # type: ignore[no-untyped-call]
    return y


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, neighbors: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.neighbors = neighbors
        y: Tensor = torch.ops.summarizer.rotate(x, cos, sin, neighbors, False)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return (
            torch.ops.summarizer.rotate(grads[0], *ctx.saved_tensors, ctx.neighbors, True),
            None,
            None,
            None,
        )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, neighbors: bool, back: bool) -> Tensor:
    x, cos, sin, y = x.contiguous(), cos.contiguous(), sin.contiguous(), _made(x, cos, sin, neighbors, back)
    rows, t, heads, d = x.shape
    kernels(SOURCE).rotate(
        numbers_of(x),
        numbers_of(cos),
        numbers_of(sin),
        count(rows * t),
        count(heads),
        count(d),
        count(cos.shape[0] * t),
        count(cos.shape[-1] // (1 if neighbors else 2)),
        c_int(neighbors),
        c_int(back),
        numbers_of(y),
        threads(),
    )
    return y


def _made(x: Tensor, cos: Tensor, sin: Tensor, neighbors: bool, back: bool) -> Tensor:
    rows, t, _, d = x.shape
    assert cos.shape == sin.shape, "an angle's cosine and its sine"
    assert cos.shape[:2] in ((rows, t), (1, t)), "angles for each token"
    assert cos.shape[-1] * (2 if neighbors else 1) <= d, "no more angles than numbers"
    return x.new_empty(x.shape)


define("rotate(Tensor x, Tensor cos, Tensor sin, bool neighbors, bool back) -> Tensor", _rotate, _made)
