"""Causal attention over packed sequences, for training and for reading prompts, with a gradient.

`packed_attention` takes sequences that lie one behind the other and where each begins (`cu_seqlens`, as
FlashAttention calls it): no mask is made, no padding is computed, and a sequence sees nothing of its neighbors. Its
forms are FlashAttention or a mask on a GPU; on a CPU the kernel in C (attention_c.py), blocks of queries in 16
bits, or torch's own attention in fp32.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from summarizer import compat
from summarizer.ops import attention_c
from summarizer.ops.elementwise import in_compute_dtype

VARLEN_TAKES = frozenset(inspect.signature(varlen_attn).parameters)
"""torch 2.11 and 2.13 name what they take differently, and 2.11 takes less."""


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
    if query.is_cuda and not _has_flash(query, window):
        return masked_attention(query, key, value, cu_seqlens, scaling, window)
    rows, heads, t, d = query.shape
    # Values of another width than the keys', which no kernel here knows, do not fit these shapes.
    q, k, v = (tensor.transpose(1, 2).reshape(rows * t, tensor.shape[1], d) for tensor in (query, key, value))
    take = flash_attention if q.is_cuda else attention_on_cpu
    mixed: Tensor = take(q, k, v, cu_seqlens, scaling, window)
    return mixed.reshape(rows, t, heads, d)


# --- on a GPU -----------------------------------------------------------------------------------------------------


def _has_flash(x: Tensor, window: int | None) -> bool:
    """Source of the widths: FlashAttention's own checks, which nothing pads for where examples are packed."""
    # Of the ways to ask for the capability, the compiler knows this one as a constant.
    ampere_or_later = torch.cuda.get_device_properties(x.device).major >= 8
    width = x.shape[-1]
    fits = width % 8 == 0 and width <= 256 and (window is None or "window_size" in VARLEN_TAKES)
    return x.dtype in (torch.bfloat16, torch.float16) and ampere_or_later and fits


def flash_attention(
    q: Float[Tensor, "tokens heads d"],
    k: Float[Tensor, "tokens kv_heads d"],
    v: Float[Tensor, "tokens kv_heads d"],
    cu_seqlens: Int32[Tensor, " ends"],
    scaling: float | None,
    window: int | None = None,
) -> Float[Tensor, "tokens heads d"]:
    """FlashAttention over packed sequences (Dao 2023, arXiv:2307.08691)."""
    longest = len(q)  # no sequence has more tokens; it only sizes a grid
    before = -1 if window is None else window - 1
    more: dict[str, Any] = (
        {"window_size": (before, 0)} if "window_size" in VARLEN_TAKES else {"is_causal": True}
    )
    if q.shape[1] != k.shape[1]:
        if "enable_gqa" in VARLEN_TAKES:
            more["enable_gqa"] = True
        else:
            k, v = (tensor.repeat_interleave(q.shape[1] // tensor.shape[1], dim=1) for tensor in (k, v))
    if scaling is not None:
        if "scale" in VARLEN_TAKES:
            more["scale"] = scaling
        else:
            q = q * (scaling * q.shape[-1] ** 0.5)
    out: Tensor = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, longest, longest, **more)  # type: ignore[assignment]
    return out


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


@torch.compiler.disable  # type: ignore[untyped-decorator]
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
    if attention_c.supports(q) and not windowed:
        return attention_c.causal_attention(q, k, v, lengths, scale)
    sequences = zip(*(torch.split(tensor, lengths) for tensor in (q, k, v)), strict=True)
    if windowed:
        return torch.cat([whole_attention(q, k, v, scale, window) for q, k, v in sequences])
    alone: Callable[..., Tensor] = whole_attention if q.dtype == torch.float32 else block_attention
    return torch.cat([alone(query, key, value, scale) for query, key, value in sequences])


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
