"""Causal attention over packed sequences, for training and for reading prompts, with a gradient.

`packed_attention` takes sequences that lie one behind the other and where each begins (`cu_seqlens`, as
FlashAttention calls it): no mask is made, no padding is computed, and a sequence sees nothing of its neighbors. Its
forms are FlashAttention or a mask on a GPU; on a CPU the kernel in C (csrc/attention.c), blocks of queries in 16
bits, or torch's own attention in fp32.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import BFloat16, Float, Int32, Int64
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from summarizer import compat
from summarizer.ops import native
from summarizer.ops.decode_gemm import is_read_in_place
from summarizer.ops.elementwise import in_compute_dtype

SOURCE = "attention.c"
HEAD_MULTIPLE = 16
"""What the width of a head must be a multiple of."""


def packed_attention(
    query: Float[Tensor, "rows heads t d"],
    key: Float[Tensor, "rows kv_heads t d"],
    value: Float[Tensor, "rows kv_heads t d"],
    cu_seqlens: Int32[Tensor, " ends"],
    scaling: float | None = None,
    window: int | None = None,
) -> Float[Tensor, "rows t heads d"]:
    """softmax(scaling q k^T + causal mask) v within each sequence; neighboring heads share a key head.

    cu_seqlens: where sequences begin and end, counting the tokens of all rows, from 0 to their number. window: the
    latest tokens that each one sees, itself among them; None for all.
    """
    # What autocast does for torch's own attention. Rotations in fp32 leave q and k in fp32, and v not.
    query, key, value = (in_compute_dtype(tensor) for tensor in (query, key, value))
    take: Callable[..., Tensor] = attention_on_cpu
    if query.is_cuda:
        # By need: it brings torch's compiler, which takes longer to import than the rest of torch.
        from summarizer.ops import flash_attention

        if not flash_attention.supports(query, window):
            return masked_attention(query, key, value, cu_seqlens, scaling, window)
        take = flash_attention.flash_attention
    rows, heads, t, d = query.shape
    # Values of another width than the keys', which no kernel here knows, do not fit these shapes.
    q, k, v = (tensor.transpose(1, 2).reshape(rows * t, tensor.shape[1], d) for tensor in (query, key, value))
    mixed = take(q, k, v, cu_seqlens, scaling, window)
    return mixed.reshape(rows, t, heads, d)


# --- on a GPU -----------------------------------------------------------------------------------------------------


def masked_attention(
    query: Float[Tensor, "rows heads t d"],
    key: Float[Tensor, "rows kv_heads t d"],
    value: Float[Tensor, "rows kv_heads t d"],
    cu_seqlens: Int32[Tensor, " ends"],
    scaling: float | None,
    window: int | None = None,
) -> Float[Tensor, "rows t heads d"]:
    """Where there is no such kernel (fp32, older GPUs, odd heads): a mask made on the device, without reading it.

    Row by row, so that an overflow in one trial's reaches no other's: 0 x inf is NaN, behind a mask too.
    """
    rows, heads, t, _ = query.shape
    places = torch.arange(rows * t, device=query.device).reshape(rows, t)
    sequence = torch.searchsorted(cu_seqlens, places, right=True)
    apart = places[:, None, :, None] - places[:, None, None, :]
    mask = (sequence[:, None, :, None] == sequence[:, None, None, :]) & (apart >= 0)
    if window is not None:
        mask &= apart < window
    key, value = (tensor.repeat_interleave(heads // tensor.shape[1], dim=1) for tensor in (key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return mixed.transpose(1, 2)


# --- on a CPU -----------------------------------------------------------------------------------------------------


def attention_on_cpu(
    q: Float[Tensor, "tokens heads d"],
    k: Float[Tensor, "tokens kv_heads d"],
    v: Float[Tensor, "tokens kv_heads d"],
    cu_seqlens: Int32[Tensor, " ends"],
    scaling: float | None,
    window: int | None = None,
) -> Float[Tensor, "tokens heads d"]:
    """Sequence by sequence, since reading their lengths costs nothing here."""
    lengths = cu_seqlens.diff().tolist()
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    windowed = window is not None and max(lengths, default=0) > window
    if supports(q) and not windowed:
        return causal_attention(q, k, v, lengths, scale)
    sequences = zip(*(torch.split(tensor, lengths) for tensor in (q, k, v)), strict=True)
    if windowed:
        return torch.cat([whole_attention(q, k, v, scale, window) for q, k, v in sequences])
    alone: Callable[..., Tensor] = whole_attention if q.dtype == torch.float32 else block_attention
    return torch.cat([alone(query, key, value, scale) for query, key, value in sequences])


def leave_out_of_graphs() -> None:
    """Have torch.compile run attention on a CPU as it is, which it cannot make a graph of. Before it compiles.

    A decorator would do, and import torch's compiler for all the runs that compile nothing, in 2.5 s.
    """
    global attention_on_cpu
    attention_on_cpu = torch.compiler.disable(attention_on_cpu)


def whole_attention(
    q: Float[Tensor, "t heads d"],
    k: Float[Tensor, "t kv_heads d"],
    v: Float[Tensor, "t kv_heads d"],
    scaling: float,
    window: int | None = None,
) -> Float[Tensor, "t heads d"]:
    """One sequence by torch's own attention."""
    mask = None
    if window is not None:
        places = torch.arange(len(q), device=q.device)
        apart = places[:, None] - places
        mask = (apart >= 0) & (apart < window)
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))
    mixed = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )
    return mixed[0].transpose(0, 1)


# --- in C, on a CPU -----------------------------------------------------------------------------------------------


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


def supports(q: Tensor) -> bool:
    """Whether the form in C runs here and is made for such queries, a head's width in their last axis."""
    is_even = q.shape[-1] % HEAD_MULTIPLE == 0
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and is_even and native.available(SOURCE)


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
    if is_read_in_place(q):
        return _forward(q, k, v, list(lengths), scaling)[0]
    out: Tensor = _CausalAttention.apply(q, k, v, list(lengths), scaling)  # type: ignore[no-untyped-call]  # torch leaves it so
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
    starts, ends = _bounds(tuple(lengths))
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


@lru_cache(maxsize=4)
def _bounds(lengths: tuple[int, ...]) -> tuple[Int64[Tensor, " sequences"], Int64[Tensor, " sequences"]]:
    """Where sequences that lie one behind the other begin and end, the longest first: the same in all layers."""
    ends = torch.tensor(lengths).cumsum(0)
    longest_first = torch.tensor(lengths).argsort(descending=True, stable=True)
    return (ends - torch.tensor(lengths))[longest_first], ends[longest_first]


def _is_readable(x: Tensor) -> bool:
    """A head's numbers lie side by side, and pairs of them at even places."""
    return x.stride(-1) == 1 and x.stride(0) % 2 == 0


# --- in 16 bits, block of queries by block ------------------------------------------------------------------------
# For fp16, heads whose width is no multiple of 16, and where the kernel in C, which is faster, cannot be compiled.
# A block of queries meets only the keys up to its own end, so that most of what the mask hides is never computed.
# Forward keeps the weights of attention in 16 bits, half of t x t numbers per head, where torch's own kernel keeps
# one number per row and spends much of a training step on finding them again. Measured on two cores with AVX-512
# and bf16, forward and backward, two examples of 512 tokens: 22 ms instead of 48 for 9 heads of 64, 154 ms instead
# of 224 for 16 heads of 256; gradients off by up to 3.7e-3 instead of 6.4e-3.

BLOCK = 128
"""Queries at a time: the fastest of 64, 128 and 256 (8.3, 7.9 and 11.0 ms for one example of 512 tokens and 9 heads
of 64; 63, 56 and 69 ms for 16 of 256)."""


def block_attention(
    q: Float[Tensor, "t heads d"],
    k: Float[Tensor, "t kv_heads d"],
    v: Float[Tensor, "t kv_heads d"],
    scaling: float,
) -> Float[Tensor, "t heads d"]:
    """softmax(scaling q k^T + causal mask) v of one sequence; neighboring heads share a key head."""
    out: Tensor = _BlockAttention.apply(q, k, v, scaling)  # type: ignore[no-untyped-call]
    return out


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
        queries, out = _by_key_head(q.float() * scaling, k), torch.empty_like(q)
        keys, values = k.float().permute(1, 2, 0).contiguous(), v.transpose(0, 1).contiguous()
        weights = []
        for start, end in _blocks(len(q)):
            # The scores, unlike what is made of them, in fp32: their error is multiplied in the exponential.
            scores = torch.bmm(_flat(queries, start, end), keys[:, :, :end])
            _mask(scores, start, end)
            weights.append(torch.softmax(scores, dim=-1).to(q.dtype))
            _put(out, start, end, torch.bmm(weights[-1], values[:, :end]))
        ctx.save_for_backward(q, k, v, *weights)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *weights = ctx.saved_tensors
        queries, grad_out = _by_key_head(q, k), _by_key_head(grads[0], k)
        keys, values = k.transpose(0, 1).contiguous(), v.permute(1, 2, 0).contiguous()
        grad_q = torch.empty_like(q)
        grad_k, grad_v = (torch.zeros(keys.shape, device=q.device) for _ in "kv")
        for (start, end), weight in zip(_blocks(len(q)), weights, strict=True):
            grad = _flat(grad_out, start, end)
            grad_v[:, :end] += torch.bmm(weight.transpose(1, 2), grad)
            grad_weight = torch.bmm(grad, values[:, :, :end])
            grad_scores = compat.softmax_backward(grad_weight, weight)
            _put(grad_q, start, end, torch.bmm(grad_scores, keys[:, :end]) * ctx.scaling)
            grad_k[:, :end] += torch.bmm(grad_scores.transpose(1, 2), _flat(queries, start, end))
        grad_k *= ctx.scaling
        return grad_q, grad_k.transpose(0, 1).to(k.dtype), grad_v.transpose(0, 1).to(v.dtype), None


def _blocks(t: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, t)) for start in range(0, t, BLOCK)]


def _by_key_head(x: Float[Tensor, "t heads d"], k: Tensor) -> Float[Tensor, "kv_heads shared t d"]:
    t, _, d = x.shape
    return x.reshape(t, k.shape[1], -1, d).permute(1, 2, 0, 3).contiguous()


def _flat(
    x: Float[Tensor, "kv_heads shared t d"], start: int, end: int
) -> Float[Tensor, "kv_heads shared_block d"]:
    """The queries of a block, those of heads that share a key head side by side."""
    return x[:, :, start:end].flatten(1, 2)


def _put(out: Float[Tensor, "t heads d"], start: int, end: int, block: Float[Tensor, "kv_heads _ d"]) -> None:
    """The inverse of `_flat`, into the rows of a whole."""
    by_head = block.reshape(len(block), -1, end - start, block.shape[-1])
    out[start:end] = by_head.permute(2, 0, 1, 3).flatten(1, 2)


def _mask(scores: Float[Tensor, "kv_heads shared_block end"], start: int, end: int) -> None:
    """In place. Only the last square of a block's scores reaches past the diagonal."""
    later = torch.ones(end - start, end - start, dtype=torch.bool, device=scores.device).triu(1)
    scores.view(len(scores), -1, end - start, end)[..., start:].masked_fill_(later, -torch.inf)
