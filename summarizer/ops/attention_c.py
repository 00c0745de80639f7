"""The form in C of causal attention over packed sequences in bf16, forward and backward: csrc/attention.c."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import BFloat16
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from summarizer.ops import native

SOURCE = "attention.c"
HEAD_MULTIPLE = 16
"""What the width of a head must be a multiple of."""


class _Heads(ctypes.Structure):
    """`Heads` of attention.c."""

    _fields_ = [("first", ctypes.c_void_p), ("token", ctypes.c_long), ("head", ctypes.c_long)]


class _Causal(ctypes.Structure):
    """`Causal` of attention.c."""

    _fields_ = [
        *((name, _Heads) for name in ("q", "k", "v", "out")),
        ("logs", ctypes.c_void_p),
        *((name, _Heads) for name in ("grad_out", "grad_q", "grad_k", "grad_v")),
        *((name, ctypes.c_void_p) for name in ("shares", "starts", "ends")),
        *((name, ctypes.c_long) for name in ("examples", "tokens", "heads", "kv_heads", "d")),
        ("scaling", ctypes.c_float),
        ("threads", ctypes.c_int),
    ]


def available() -> bool:
    """Whether this machine has a processor that multiplies bf16, and a compiler for it."""
    return native.available(SOURCE)


def supports(q: Tensor) -> bool:
    """Whether it is made for queries of this kind, a head's width in their last axis, and for this machine."""
    is_even = q.shape[-1] % HEAD_MULTIPLE == 0
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and is_even and available()


def causal_attention(
    q: BFloat16[Tensor, "tokens heads d"],
    k: BFloat16[Tensor, "tokens kv_heads d"],
    v: BFloat16[Tensor, "tokens kv_heads d"],
    lengths: Sequence[int],
    scaling: float,
) -> BFloat16[Tensor, "tokens heads d"]:
    """softmax(scaling q k^T + causal mask) v of each sequence by itself; neighboring heads share a key head.

    lengths: each sequence's tokens; the sequences lie one behind the other. Only where it `supports` the queries.
    """
    out: Tensor = _CausalAttention.apply(q, k, v, list(lengths), scaling)  # type: ignore[no-untyped-call]
    return out


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scaling: float) -> Tensor:
        out: Tensor
        out, logs = torch.ops.summarizer.causal_attention(q, k, v, lengths, scaling)
        ctx.save_for_backward(q, k, v, out, logs)
        ctx.lengths, ctx.scaling = lengths, scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        grad_q, grad_k, grad_v = torch.ops.summarizer.causal_attention_backward(
            grads[0], *ctx.saved_tensors, ctx.lengths, ctx.scaling
        )
        return grad_q, grad_k, grad_v, None, None


def _forward(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scaling: float) -> tuple[Tensor, Tensor]:
    """The output, and each query's logarithm of what its weights were divided by."""
    out, logs = _shaped_forward(q, k, v, lengths, scaling)
    _call("causal_forward", {"q": q, "k": k, "v": v, "out": out}, logs, lengths, scaling)
    return out, logs


def _shaped_forward(
    q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scaling: float
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


def _backward(grad_out: Tensor, *saved: Any) -> tuple[Tensor, Tensor, Tensor]:
    """saved: what the operator's schema names after the gradient."""
    q, k, v, out, logs, lengths, scaling = saved
    grads = _shaped_backward(grad_out, *saved)
    named = dict(zip(("grad_q", "grad_k", "grad_v"), grads, strict=True))
    tensors = {"q": q, "k": k, "v": v, "out": out, "grad_out": grad_out, **named}
    _call("causal_backward", tensors, logs, lengths, scaling)
    return grads


def _shaped_backward(grad_out: Tensor, *saved: Any) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = saved[:3]
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


native.define_operator(
    "causal_attention(Tensor q, Tensor k, Tensor v, int[] lengths, float scaling) -> (Tensor, Tensor)",
    _forward,
    _shaped_forward,
)
native.define_operator(
    "causal_attention_backward(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor out, Tensor logs,"
    " int[] lengths, float scaling) -> (Tensor, Tensor, Tensor)",
    _backward,
    _shaped_backward,
)


@register_flop_formula(torch.ops.summarizer.causal_attention)
def _forward_flops(
    q: Sequence[int], k: object, v: object, lengths: Sequence[int], *more: object, **named: object
) -> int:
    """Two products, of the pairs that a causal mask leaves."""
    return 2 * _product_flops(q, lengths)


@register_flop_formula(torch.ops.summarizer.causal_attention_backward)
def _backward_flops(grad_out: Sequence[int], *saved: Any, **named: object) -> int:
    """Five products: the scores anew, and the gradients of weights, queries, keys and values."""
    lengths: Sequence[int] = saved[5]
    return 5 * _product_flops(grad_out, lengths)


def _product_flops(q: Sequence[int], lengths: Sequence[int]) -> int:
    _, heads, d = q
    return 2 * heads * d * sum(t * (t + 1) // 2 for t in lengths)


def _call(
    name: str, tensors: dict[str, Tensor], logs: Tensor, lengths: Sequence[int], scaling: float
) -> None:
    q, k = tensors["q"], tensors["k"]
    (tokens, heads, d), kv_heads = q.shape, k.shape[1]
    assert sum(lengths) == tokens, "lengths are of all tokens"
    assert k.shape == tensors["v"].shape == (tokens, kv_heads, d), "keys and values are as wide as queries"
    assert heads % kv_heads == 0, "as many query heads share each key head"
    assert all(x.dtype == torch.bfloat16 for x in tensors.values()), (
        "queries, keys and values are all in bf16"
    )
    ends = torch.tensor(lengths).cumsum(0)
    longest_first = torch.tensor(lengths).argsort(descending=True, stable=True)
    starts, ends = (ends - torch.tensor(lengths))[longest_first], ends[longest_first]
    shares = torch.empty(2, tokens, heads, d) if "grad_k" in tensors and heads != kv_heads else None
    dense = {
        part: tensor if _is_readable(tensor) else tensor.contiguous() for part, tensor in tensors.items()
    }
    parts = {part: _Heads(x.data_ptr(), x.stride(0), x.stride(1)) for part, x in dense.items()}
    given = _Causal(
        **parts,
        logs=logs.data_ptr(),
        shares=None if shares is None else shares.data_ptr(),
        starts=starts.data_ptr(),
        ends=ends.data_ptr(),
        examples=len(lengths),
        tokens=tokens,
        heads=heads,
        kv_heads=kv_heads,
        d=d,
        scaling=scaling,
        threads=torch.get_num_threads(),
    )
    if tokens and native.kernel(SOURCE, name)(ctypes.byref(given)):
        raise MemoryError("no memory for the scores of an example")


def _is_readable(x: Tensor) -> bool:
    """A head's numbers lie side by side, and pairs of them at even places."""
    return x.stride(-1) == 1 and x.stride(0) % 2 == 0
