"""Rotary position embeddings, as GPT-J and as Llama has them, on whole sequences and with a gradient.

Source: Su et al. 2021 (arXiv:2104.09864). A new token's rotation is part of its attention (decode_attention.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from summarizer.ops import native
from summarizer.ops.elementwise import BF16_SOURCE


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines of the angles by which each row's pairs turn."""

    cos: Float32[Tensor, "rows half"]
    sin: Float32[Tensor, "rows half"]
    interleaved: bool
    """Pairs are numbers 2i and 2i + 1 of a head, as GPT-J has it; else i and half + i, as Llama has it."""


def supports(x: Tensor, cos: Tensor) -> bool:
    """Whether the kernel is made for such numbers, by such a table, and for this machine."""
    exact_table = native.is_eager(cos, torch.float32)
    return native.is_eager(x, torch.bfloat16) and exact_table and native.available(BF16_SOURCE)


def rotate(
    x: Float[Tensor, "rows t heads d"],
    cos: Float[Tensor, "#rows t width"],
    sin: Float[Tensor, "#rows t width"],
    *,
    interleaved: bool,
) -> Float[Tensor, "rows t heads d"]:
    """Turn pairs of a head's numbers by their token's angles, in fp32.

    interleaved: the first 2 width of a head turn, number 2i with 2i + 1; else the first width, number i with width
    / 2 + i, and the table holds each angle twice. The others stay. Of x in 16 bits the kernel's result is in 16
    bits; torch's is so if interleaved, else in the precision of the table.
    """
    if supports(x, cos):
        y: Tensor = _Rotation.apply(x, cos, sin, interleaved)  # type: ignore[no-untyped-call]
        return y
    cos, sin = cos[:, :, None], sin[:, :, None]
    if interleaved:
        turning = x[..., : 2 * cos.shape[-1]].float()
        first, second = turning[..., 0::2], turning[..., 1::2]
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
        return torch.cat((turned.to(x.dtype), x[..., 2 * cos.shape[-1] :]), dim=-1)
    width = cos.shape[-1]
    front, half = x[..., :width], width // 2
    front = front * cos + torch.cat((-front[..., half:], front[..., :half]), dim=-1) * sin
    return front if width == x.shape[-1] else torch.cat((front, x[..., width:]), dim=-1)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        y: Tensor = torch.ops.summarizer.rotate(x, cos, sin, interleaved, False)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        table = ctx.saved_tensors
        grad_x: Tensor = torch.ops.summarizer.rotate(grads[0], *table, ctx.interleaved, True)
        return grad_x, None, None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, back: bool) -> Tensor:
    y = _shaped(x, cos, sin, interleaved, back)
    x, cos, sin = x.contiguous(), cos.contiguous(), sin.contiguous()
    rows, t, heads, d = x.shape
    half = cos.shape[-1] // (1 if interleaved else 2)
    sizes = (rows * t, heads, d, cos.shape[0] * t, half)
    native.run(BF16_SOURCE, "rotate", x, cos, sin, *sizes, interleaved, back, y)
    return y


def _shaped(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, back: bool) -> Tensor:
    rows, t, _, d = x.shape
    assert cos.shape == sin.shape, "an angle's cosine and its sine"
    assert cos.shape[:2] in ((rows, t), (1, t)), "angles for each token"
    assert cos.shape[-1] * (2 if interleaved else 1) <= d, "no more angles than numbers"
    return x.new_empty(x.shape)


native.define_operator(
    "rotate(Tensor x, Tensor cos, Tensor sin, bool interleaved, bool back) -> Tensor", _rotate, _shaped
)
