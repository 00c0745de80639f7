"""Packed attention on a GPU by torch's FlashAttention, which brings torch's compiler when imported."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

VARLEN_TAKES = frozenset(inspect.signature(varlen_attn).parameters)
"""torch 2.11 and 2.13 name what they take differently, and 2.11 takes less."""


def supports(x: Tensor, window: int | None) -> bool:
    """Whether FlashAttention takes such queries on their GPU.

    Source of the widths: FlashAttention's own checks, which nothing pads for where examples are packed.
    """
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
