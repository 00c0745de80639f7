"""Keys and values while summaries are written: a prompt's once for all of its beams, and each beam's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from summarizer.data.batches import moved
from summarizer.models.attention import CausalAttention, Sequences
from summarizer.ops.decode_attention import CachedKeyValues, NewTokens, decode_attention
from summarizer.ops.elementwise import in_compute_dtype
from summarizer.ops.rotary import RotaryTable, rotate


@dataclass
class _Part:
    """The keys or the values of one layer."""

    of_prompts: Float[Tensor, "s kv_heads p d"]
    of_beams: Float[Tensor, "rows kv_heads g d"]


@dataclass(frozen=True)
class _Prefill:
    """A pass over new prompts, packed one behind the other."""

    slots: Sequence[int]
    lengths: list[int]
    sequences: Sequences


@dataclass
class KVCache:
    """The keys and values of `s` slots with `b` beams each. A slot holds one prompt; the next writes over it."""

    slots: int
    beams: int
    longest_prompt: int
    """The length in tokens of the longest prompt that will come."""
    max_new_tokens: int
    device: torch.device
    at_fixed_places: bool = False
    """Decoding reads only what lies at the same place in each pass, in the same shapes: it looks at all places that
    there are, and the host learns no number from it. Until slots leave, one pass can stand for all."""
    layers: dict[int, tuple[_Part, _Part]] = field(default_factory=dict)
    prompt_lengths: list[int] = field(init=False)
    written: list[int] = field(init=False)
    """How many new tokens of each slot's beams have their keys kept."""
    _pass: _Prefill | NewTokens | None = None
    _lengths: Int[Tensor, "2 s"] = field(init=False)
    """The lengths of the slots' prompts and, with the new token, of their answers. They are written in place,
    where a recorded graph reads them."""

    def __post_init__(self) -> None:
        self.prompt_lengths, self.written = [1] * self.slots, [0] * self.slots
        self._lengths = torch.ones(2, self.slots, dtype=torch.int64, device=self.device)

    # --- passes -----------------------------------------------------------------------------------------------

    def begin_prefill(self, slots: Sequence[int], lengths: Sequence[int], rows: int) -> Sequences:
        """Begin a pass that reads new prompts into these slots. rows: as `Sequences` has them."""
        for slot, length in zip(slots, lengths, strict=True):
            self.prompt_lengths[slot], self.written[slot] = length, 0
        positions = torch.cat([torch.arange(length) for length in lengths]).to(self.device)
        ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(self.device)
        self._pass = _Prefill(slots, list(lengths), Sequences(positions, ends, rows))
        return self._pass.sequences

    def begin_decode(self) -> Int[Tensor, " rows"]:
        """Begin a pass that reads one new token of each beam. Returns the tokens' positions."""
        # A slot that is done and waits for its next prompt computes on without being heard.
        self.written = [min(count + 1, self.max_new_tokens) for count in self.written]
        self._lengths.copy_(moved(torch.tensor([self.prompt_lengths, self.written]), self.device))
        longest = (
            (self.longest_prompt, self.max_new_tokens)
            if self.at_fixed_places
            else (max(self.prompt_lengths), max(self.written))
        )
        self._pass = NewTokens(self._lengths, self.beams, longest)
        prompts, answers = self._lengths.unbind()
        return (prompts + (answers - 1))[:, None].expand(-1, self.beams).reshape(-1)

    # --- attention --------------------------------------------------------------------------------------------

    def attend(
        self,
        layer: CausalAttention,
        query: Float[Tensor, "tokens heads d"],
        key: Float[Tensor, "tokens kv_heads d"],
        value: Float[Tensor, "tokens kv_heads d"],
        rotary: RotaryTable | None,
    ) -> Float[Tensor, "tokens heads d"]:
        """Store the new keys and values, and attend to them and to the earlier ones."""
        if isinstance(self._pass, _Prefill):
            return self._prefill(layer, query, key, value, rotary)
        assert self._pass is not None, "begin_prefill or begin_decode comes before a pass"
        keys, values = self.layers[layer.layer]
        cached = CachedKeyValues((keys.of_prompts, values.of_prompts), (keys.of_beams, values.of_beams))
        window = None if self._sees_all(layer.window) else layer.window
        return decode_attention(
            query, key, value, cached, self._pass, layer.scale, rotary=rotary, window=window
        )

    def _prefill(
        self, layer: CausalAttention, query: Tensor, key: Tensor, value: Tensor, rotary: RotaryTable | None
    ) -> Tensor:
        assert isinstance(self._pass, _Prefill)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        key, value = (in_compute_dtype(tensor) for tensor in (key, value))
        if layer.layer not in self.layers:
            self.layers[layer.layer] = self._allocated(key), self._allocated(value)
        for new, part in zip((key, value), self.layers[layer.layer], strict=True):
            for slot, own in zip(self._pass.slots, torch.split(new, self._pass.lengths), strict=True):
                part.of_prompts[slot, :, : len(own)] = own.transpose(0, 1)
        return layer.attend_packed(query, key, value, self._pass.sequences)

    def _sees_all(self, window: int | None) -> bool:
        """Whether a layer's window is so wide that no text here reaches beyond it."""
        return window is None or self.longest_prompt + self.max_new_tokens <= window

    def _allocated(self, like: Float[Tensor, "tokens kv_heads d"]) -> _Part:
        _, kv_heads, d = like.shape
        # Zeros: what a mask hides is still multiplied by 0, and 0 x NaN is NaN.
        return _Part(
            like.new_zeros(self.slots, kv_heads, self.longest_prompt, d),
            like.new_zeros(self.slots * self.beams, kv_heads, self.max_new_tokens, d),
        )

    # --- slots and beams --------------------------------------------------------------------------------------

    def follow(self, sources: Int[Tensor, "s b"]) -> None:
        """Give each beam the keys and values of the beam of its slot that it continues."""
        own = torch.arange(self.beams, device=sources.device)
        if bool((sources == own).all()):
            return
        slot = torch.arange(self.slots, device=sources.device)[:, None]
        rows = (slot * self.beams + sources).flatten()
        g = max(self.written)
        for both in self.layers.values():
            for part in both:
                part.of_beams[:, :, :g] = part.of_beams[rows, :, :g]

    def keep(self, slots: Sequence[int]) -> None:
        """Drop all slots but these, and put them into this order."""
        chosen = torch.tensor(slots, device=self.device)
        rows = (chosen[:, None] * self.beams + torch.arange(self.beams, device=self.device)).flatten()
        for both in self.layers.values():
            for part in both:
                part.of_prompts, part.of_beams = part.of_prompts[chosen], part.of_beams[rows]
        self.slots = len(slots)
        self._lengths = self._lengths[:, chosen].contiguous()
        self.prompt_lengths = [self.prompt_lengths[slot] for slot in slots]
        self.written = [self.written[slot] for slot in slots]
