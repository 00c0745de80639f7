"""What attention layers of all our families share: packed sequences, rotary positions and, in decode, a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

from jaxtyping import Float, Float32, Int, Int32
from torch import Tensor, nn

from summarizer.ops.attention import packed_attention
from summarizer.ops.rotary import RotaryTable, rotate


@dataclass(frozen=True)
class Sequences:
    """Tokens of several sequences, one behind the other, none of which sees another."""

    positions: Int[Tensor, " tokens"]
    """Each token's position in its own sequence, from 0."""
    cu_seqlens: Int32[Tensor, " ends"]
    """Where each sequence begins, first 0, and where the last one ends; some at the end may be empty."""
    rows: int = 1
    """Equal parts of the tokens that no sequence crosses, such as each trial's."""


class RotaryEmbedding(nn.Module):
    """The angles of positions: each position times each of a few frequencies.

    Source: Su et al. 2021 (arXiv:2104.09864).
    """

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
    """softmax(scale q k^T) v over a token's own sequence up to the token itself."""

    def __init__(self, layer: int, head_dim: int, window: int | None = None) -> None:
        """layer: its number, under which a cache keeps its keys. window: the latest tokens seen; None for all."""
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
        rows: Int[Tensor, " wanted"] | None = None,
    ) -> Float[Tensor, "_ heads_d"]:
        """rotary: None for a layer that knows no positions.  rows: tokens whose result is wanted; None for all."""
        if cache is not None:
            mixed = cache.attend(self, query, key, value, rotary)
        else:
            if rotary is not None:
                query, key = rotate(query, rotary), rotate(key, rotary)
            mixed = self.attend_packed(query, key, value, sequences)
        return (mixed if rows is None else mixed[rows]).flatten(1)

    def attend_packed(
        self,
        query: Float[Tensor, "tokens heads d"],
        key: Float[Tensor, "tokens kv_heads d"],
        value: Float[Tensor, "tokens kv_heads d"],
        sequences: Sequences,
    ) -> Float[Tensor, "tokens heads d"]:
        """Attention of rotated queries within their sequences alone."""
        q, k, v = (x.unflatten(0, (sequences.rows, -1)).transpose(1, 2) for x in (query, key, value))
        return packed_attention(q, k, v, sequences.cu_seqlens, self.scale, self.window).flatten(0, 1)
