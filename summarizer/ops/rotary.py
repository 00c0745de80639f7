"""Rotary position embeddings, as GPT-J and as Llama has them, on whole sequences and with a gradient.

Source: Su et al. 2021 (arXiv:2104.09864). A new token's rotation is part of its attention (decode_attention.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from summarizer.ops import native
from summarizer.ops.decode_gemm import is_read_in_place
from summarizer.ops.elementwise import BF16_SOURCE


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines of the angles by which each row's pairs turn. What lies behind a head's pairs stays."""

    cos: Float32[Tensor, "rows half"]
    sin: Float32[Tensor, "rows half"]
    interleaved: bool
    """Pairs are numbers 2i and 2i + 1 of a head, as GPT-J has it; else i and half + i, as Llama has it."""

    @cached_property
    def sin_cos(self) -> Float32[Tensor, "rows turning"]:
        """Sines, then cosines, as a GPU's kernel reads them: the same in all layers of a pass."""
        return torch.cat((self.sin, self.cos), dim=1)


def supports(x: Tensor, cos: Tensor) -> bool:
    """Whether the kernel is made for such numbers, by such a table, and for this machine."""
    exact_table = native.is_eager(cos, torch.float32)
    return native.is_eager(x, torch.bfloat16) and exact_table and native.available(BF16_SOURCE)


def rotate(x: Float[Tensor, "rows heads d"], table: RotaryTable) -> Float[Tensor, "rows heads d"]:
    """Turn pairs of a head's numbers by their row's angles, in fp32; the result is in the precision of x."""
    if supports(x, table.cos):
        if is_read_in_place(x):
            return _rotate(x, table.cos, table.sin, table.interleaved, False)
        y: Tensor = _Rotation.apply(x, table.cos, table.sin, table.interleaved)  # type: ignore[no-untyped-call]
        return y
    cos, sin = table.cos[:, None], table.sin[:, None]
    half = cos.shape[-1]
    front = x[..., : 2 * half].float()
    if table.interleaved:
        first, second = front[..., 0::2], front[..., 1::2]
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
    else:
        first, second = front[..., :half], front[..., half:]
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return torch.cat((turned.to(x.dtype), x[..., 2 * half :]), dim=-1)


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
    native.run(BF16_SOURCE, "rotate", x, cos, sin, *x.shape, cos.shape[-1], interleaved, back, y)
    return y


def _shaped(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, back: bool) -> Tensor:
    rows, _, d = x.shape
    assert cos.shape == sin.shape, "an angle's cosine and its sine"
    assert len(cos) == rows, "angles for each row"
    assert 2 * cos.shape[-1] <= d, "no more pairs than a head has"
    return x.new_empty(x.shape)


native.define_operator(
    "rotate(Tensor x, Tensor cos, Tensor sin, bool interleaved, bool back) -> Tensor", _rotate, _shaped
)
