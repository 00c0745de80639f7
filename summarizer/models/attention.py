"""Causal attention over packed sequences, with rotary positions and, while text is written, a cache of keys and values."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int, Int32
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from summarizer.models.causal_blocks import causal_attention
from summarizer.ops import causal, rotary
from summarizer.quantization.frozen import in_product_precision

VARLEN_TAKES = frozenset(inspect.signature(varlen_attn).parameters)
"""torch 2.11 and 2.13 name what they take differently, and 2.11 takes less."""


@dataclass(frozen=True)
class Sequences:
    """Tokens of several sequences, one behind the other, none of which sees another."""

    positions: Int[Tensor, " tokens"]
    """Of each token in its own sequence, from 0."""
    cu_seqlens: Int32[Tensor, " ends"]
    """Where each sequence begins, first 0, and where the last one ends; some at the end may be empty."""
    rows: int = 1
    """Equal parts of the tokens that no sequence crosses, such as each trial's."""


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines of each token's angles, one for each pair of a head's numbers that turns.

    Source: Su et al. 2021 (arXiv:2104.09864).
    """

    cos: Float32[Tensor, "tokens half"]
    sin: Float32[Tensor, "tokens half"]
    interleaved: bool
    """Pairs are numbers 2i and 2i + 1 of a head, as GPT-J has it; else i and half + i, as Llama. Those behind stay."""

    def rotate(self, x: Float[Tensor, "tokens heads d"]) -> Float[Tensor, "tokens heads d"]:
        """Turn each head by its token's angles, in fp32."""
        if rotary.takes(x, self.cos):
            cos, sin = (self.cos, self.sin) if self.interleaved else (self.cos.repeat(1, 2), self.sin.repeat(1, 2))
            return rotary.rotated(x[None], cos[None], sin[None], interleaved=self.interleaved)[0]
        cos, sin = self.cos[:, None], self.sin[:, None]
        turning, half = 2 * cos.shape[-1], cos.shape[-1]
        front = x[..., :turning].float()
        pairs = (front[..., 0::2], front[..., 1::2]) if self.interleaved else (front[..., :half], front[..., half:])
        turned = (pairs[0] * cos - pairs[1] * sin, pairs[1] * cos + pairs[0] * sin)
        y = torch.stack(turned, dim=-1).flatten(-2) if self.interleaved else torch.cat(turned, dim=-1)
        return torch.cat((y.to(x.dtype), x[..., turning:]), dim=-1)


class RotaryEmbedding(nn.Module):
    """The angles of positions: each position times each of a few frequencies."""

    def __init__(
        self, frequencies: Float32[Tensor, " half"], *, interleaved: bool = False, factor: float = 1.0
    ) -> None:
        """factor: of cosines and sines, by which some scalings for long contexts sharpen attention."""
        super().__init__()
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.interleaved, self.factor = interleaved, factor

    def forward(self, positions: Int[Tensor, " tokens"]) -> RotaryTable:
        angles = positions[:, None].float() * cast(Tensor, self.frequencies)
        return RotaryTable(angles.cos() * self.factor, angles.sin() * self.factor, self.interleaved)


@runtime_checkable
class KeyValueCache(Protocol):
    """Keys and values of earlier tokens, and attention to them."""

    def attend(
        self,
        layer: CausalAttention,
        query: Float[Tensor, "tokens heads d"],
        key: Float[Tensor, "tokens kv_heads d"],
        value: Float[Tensor, "tokens kv_heads d"],
        rotary: RotaryTable | None,
    ) -> Float[Tensor, "tokens heads d"]:
        """Keep the new keys and values, and attend to them and to the earlier ones."""
        ...


class CausalAttention(nn.Module):
    """softmax(scale q k^T) v over a token's own sequence up to the token itself: what layers of all families share."""

    def __init__(self, layer: int, head_dim: int, window: int | None = None) -> None:
        """layer: its number, by which a cache keeps its keys. window: the latest tokens that are seen; None: all."""
        super().__init__()
        self.layer, self.head_dim, self.window = layer, head_dim, window
        self.scale = head_dim**-0.5

    def attend(
        self,
        query: Float[Tensor, "tokens heads d"],
        key: Float[Tensor, "tokens kv_heads d"],
        value: Float[Tensor, "tokens kv_heads d"],
        rotary: RotaryTable | None,
        sequences: Sequences,
        cache: KeyValueCache | None,
    ) -> Float[Tensor, "tokens heads_d"]:
        """rotary: None for a layer that knows no positions."""
        if cache is not None:
            return cache.attend(self, query, key, value, rotary).flatten(1)
        if rotary is not None:
            query, key = rotary.rotate(query), rotary.rotate(key)
        return packed_attention(query, key, value, sequences, self.scale, self.window).flatten(1)


def packed_attention(
    query: Float[Tensor, "tokens heads d"],
    key: Float[Tensor, "tokens kv_heads d"],
    value: Float[Tensor, "tokens kv_heads d"],
    sequences: Sequences,
    scale: float,
    window: int | None = None,
) -> Float[Tensor, "tokens heads d"]:
    """Causal attention within each sequence; neighboring heads share a head of keys and values.

    Source of shared heads: Ainslie et al. 2023 (arXiv:2305.13245).
    """
    # What autocast does for torch's own attention. Rotations in fp32 leave q and k in fp32, and v not.
    query, key, value = (in_product_precision(tensor) for tensor in (query, key, value))
    if not query.is_cuda:
        return _each_alone(query, key, value, sequences.cu_seqlens, scale, window)
    if _has_flash(query) and (window is None or "window_size" in VARLEN_TAKES):
        return _flash(query, key, value, sequences.cu_seqlens, scale, window)
    return _masked(query, key, value, sequences, scale, window)


def _has_flash(x: Tensor) -> bool:
    """Source of the widths: FlashAttention's own checks, which nothing pads for where sequences are packed."""
    # Of the ways to ask for the capability, the compiler knows this one as a constant.
    ampere_or_later = torch.cuda.get_device_properties(x.device).major >= 8
    width = x.shape[-1]
    return x.dtype in (torch.bfloat16, torch.float16) and ampere_or_later and width % 8 == 0 and width <= 256


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _each_alone(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, scale: float, window: int | None
) -> Tensor:
    """On the CPU, where reading the lengths costs nothing: each sequence for itself and nothing for padding."""
    lengths = cu_seqlens.diff().tolist()
    reaches = window is None or max(lengths) <= window
    if reaches and causal.takes(q):
        return causal.causal_attention(q, k, v, lengths, scale)
    parts = zip(*(torch.split(tensor, lengths) for tensor in (q, k, v)), strict=True)
    if not reaches:
        return torch.cat([_by_sdpa(*part, scale, window) for part in parts])
    alone = _by_sdpa if q.dtype == torch.float32 else causal_attention
    return torch.cat([alone(*part, scale) for part in parts])


def _by_sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None = None) -> Tensor:
    mask = None
    if window is not None:
        places = torch.arange(len(q), device=q.device)
        apart = places[:, None] - places
        mask = (apart >= 0) & (apart < window)
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))
    mixed = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )
    return mixed[0].transpose(0, 1)


def _flash(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, scale: float, window: int | None) -> Tensor:
    """FlashAttention over the sequences (Dao 2023, arXiv:2307.08691)."""
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
    if "scale" in VARLEN_TAKES:
        more["scale"] = scale
    else:
        q = q * (scale * math.sqrt(q.shape[-1]))
    out: Tensor = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, longest, longest, **more)  # type: ignore[assignment]
    return out


def _masked(
    query: Float[Tensor, "tokens heads d"],
    key: Float[Tensor, "tokens kv_heads d"],
    value: Float[Tensor, "tokens kv_heads d"],
    sequences: Sequences,
    scale: float,
    window: int | None,
) -> Float[Tensor, "tokens heads d"]:
    """Where there is no such kernel (fp32, older GPUs, odd heads): a mask made on the device, without reading it.

    Row by row, so that an overflow in one trial's reaches no other's: 0 x inf is NaN, behind a mask too.
    """
    tokens, heads, _ = query.shape
    places = torch.arange(tokens, device=query.device).reshape(sequences.rows, -1)
    sequence = torch.searchsorted(sequences.cu_seqlens, places, right=True)
    apart = places[:, None, :, None] - places[:, None, None, :]
    mask = (sequence[:, None, :, None] == sequence[:, None, None, :]) & (apart >= 0)
    if window is not None:
        mask &= apart < window
    by_row = (
        tensor.repeat_interleave(heads // tensor.shape[1], dim=1)
        .reshape(sequences.rows, -1, heads, tensor.shape[-1])
        .transpose(1, 2)
        for tensor in (query, key, value)
    )
    mixed = F.scaled_dot_product_attention(*by_row, attn_mask=mask, scale=scale)
    return mixed.transpose(1, 2).flatten(0, 1)
