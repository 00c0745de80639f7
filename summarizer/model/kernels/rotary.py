"""Rotary position embeddings, as GPT-J and as Llama has them: rotary.c for tensors in bf16 on a CPU."""

from __future__ import annotations

import inspect
from ctypes import c_int
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.llama import modeling_llama

from summarizer.model.kernels.compiled import kernels, library
from summarizer.model.kernels.operators import count, define, is_eager, numbers_of, threads

SOURCE = Path(__file__).with_name("rotary.c")
APPLY = "apply_rotary_pos_emb"
"""What transformers' models with Llama's embeddings call them by, each a copy of its own."""


def takes(x: Tensor, cos: Tensor) -> bool:
    """Whether the kernel is made for such numbers, by such a table, and for this machine."""
    return is_eager(x, torch.bfloat16) and is_eager(cos, torch.float32) and library(SOURCE) is not None


def rotated(
    x: Float[Tensor, "rows t heads d"],
    cos: Float[Tensor, "#rows t width"],
    sin: Float[Tensor, "#rows t width"],
    *,
    neighbours: bool,
) -> Float[Tensor, "rows t heads d"]:
    """Turn pairs of a head's numbers by their token's angles, in fp32. Only where `takes`.

    neighbours: the first 2 width of a head turn, number 2i with 2i + 1; else the first width, number i with
    width / 2 + i. The others stay.
    """
    y: Tensor = _Rotation.apply(x, cos, sin, neighbours)  # type: ignore[no-untyped-call]
    return y


def rotate_by_kernel(attention: nn.Module) -> None:
    """Let an attention layer whose model has Llama's rotary embeddings take them from here."""
    own: Any = type(attention)
    if (kind := _rotating(own)) is not None:
        attention.__class__ = kind


@cache
def _rotating(kind: type[Any]) -> type[nn.Module] | None:
    """The class whose forward is that of `kind`, but for what the name APPLY means in it.

    There are as many such forwards as models. A class, not a forward of each layer's own, so that compiled blocks
    share their code.
    """
    own = kind.forward
    if not isinstance(own, FunctionType) or APPLY not in own.__code__.co_names:
        return None
    if inspect.getsource(own.__globals__[APPLY]) != _LLAMA_S:
        return None
    eager = FunctionType(own.__code__, {**own.__globals__, APPLY: _apply}, closure=own.__closure__)
    eager.__defaults__, eager.__kwdefaults__ = own.__defaults__, own.__kwdefaults__

    def forward(self: nn.Module, *inputs: Any, **more: Any) -> Any:
        # The compiler looks names up in the module that a function says it is from, where APPLY means the other.
        return (own if torch.compiler.is_compiling() else eager)(self, *inputs, **more)

    return type(kind.__name__, (kind,), {"forward": forward, "__doc__": kind.__doc__})


_LLAMA_S = inspect.getsource(modeling_llama.apply_rotary_pos_emb)


def _apply(
    q: Float[Tensor, "rows heads t d"],
    k: Float[Tensor, "rows kv_heads t d"],
    cos: Float[Tensor, "#rows t d"],
    sin: Float[Tensor, "#rows t d"],
    unsqueeze_dim: int = 1,
) -> tuple[Float[Tensor, "rows heads t d"], Float[Tensor, "rows kv_heads t d"]]:
    if unsqueeze_dim == 1 and takes(q, cos) and takes(k, cos):
        q, k = (rotated(x.transpose(1, 2), cos, sin, neighbours=False).transpose(1, 2) for x in (q, k))
        return q, k
    return cast("tuple[Tensor, Tensor]", modeling_llama.apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim))


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.neighbours = neighbours
        y: Tensor = torch.ops.summarizer.rotate(x, cos, sin, neighbours, False)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return (
            torch.ops.summarizer.rotate(grads[0], *ctx.saved_tensors, ctx.neighbours, True),
            None,
            None,
            None,
        )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool, back: bool) -> Tensor:
    x, cos, sin, y = x.contiguous(), cos.contiguous(), sin.contiguous(), _made(x, cos, sin, neighbours, back)
    rows, t, heads, d = x.shape
    kernels(SOURCE).rotate(
        numbers_of(x),
        numbers_of(cos),
        numbers_of(sin),
        count(rows * t),
        count(heads),
        count(d),
        count(cos.shape[0] * t),
        count(cos.shape[-1] // (1 if neighbours else 2)),
        c_int(neighbours),
        c_int(back),
        numbers_of(y),
        threads(),
    )
    return y


def _made(x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool, back: bool) -> Tensor:
    rows, t, _, d = x.shape
    assert cos.shape == sin.shape, "an angle's cosine and its sine"
    assert cos.shape[:2] in ((rows, t), (1, t)), "angles for each token"
    assert cos.shape[-1] * (2 if neighbours else 1) <= d, "no more angles than numbers"
    return x.new_empty(x.shape)


define("rotate(Tensor x, Tensor cos, Tensor sin, bool neighbours, bool back) -> Tensor", _rotate, _made)
