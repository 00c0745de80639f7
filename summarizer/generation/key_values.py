"""Keys and values while summaries are written: a prompt's once for all of its beams, and each beam's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int, Int32, Shaped
from torch import Tensor

from summarizer.data.batches import moved
from summarizer.ops import decode_attention
from summarizer.ops.attention import packed_attention
from summarizer.ops.decode_attention import CachedKeyValues
from summarizer.ops.elementwise import in_compute_dtype


@dataclass
class _Layer:
    """One layer's keys, or its values."""

    of_prompts: Float[Tensor, "s kv_heads p d"]
    of_beams: Float[Tensor, "rows kv_heads g d"]


@dataclass
class _Reading:
    """A pass over new prompts, packed one behind the other."""

    slots: Sequence[int]
    lengths: list[int]
    borders: Int32[Tensor, " borders"]


@dataclass
class _Writing:
    """A pass over one new token of each beam. What it computes of the lengths, it computes where these lie."""

    prompt_lengths: Int[Tensor, " s"]
    answer_lengths: Int[Tensor, " s"]
    """With the new token."""
    rooms: tuple[int, int]
    """Places of prompts and of answers that are looked at: no length is above."""
    beams: int

    @cached_property
    def rows(self) -> Int[Tensor, " rows"]:
        return torch.arange(len(self.prompt_lengths) * self.beams, device=self.prompt_lengths.device)

    @cached_property
    def places(self) -> Int[Tensor, " rows"]:
        return self._of_beams(self.answer_lengths - 1)

    @cached_property
    def prompt_mask(self) -> Float[Tensor, "rows 1 1 p"]:
        """What is added to the scores."""
        return self._allowed(self.prompt_lengths, self.rooms[0])

    @cached_property
    def beam_mask(self) -> Float[Tensor, "rows 1 1 g"]:
        return self._allowed(self.answer_lengths, self.rooms[1])

    def _allowed(self, lengths: Int[Tensor, " s"], room: int) -> Float[Tensor, "rows 1 1 t"]:
        hidden = torch.arange(room, device=lengths.device) >= lengths[:, None]
        mask = torch.zeros(hidden.shape, device=lengths.device).masked_fill_(hidden, -torch.inf)
        return self._of_beams(mask)[:, None, None]

    def _of_beams(self, x: Shaped[Tensor, "s ..."]) -> Shaped[Tensor, "rows ..."]:
        # Not repeat_interleave, which on a card reads how many there will be.
        return x[:, None].expand(-1, self.beams, *x.shape[1:]).reshape(-1, *x.shape[1:])


@dataclass
class KeyValues:
    """Of `s` slots with `b` beams each. A slot holds one prompt at a time; the next one writes over it."""

    slots: int
    beams: int
    longest_prompt: int
    """In tokens, of all that will come."""
    max_new_tokens: int
    device: torch.device
    at_fixed_places: bool = False
    """Passes that write read only what lies at the same place in each of them, in the same shapes: they look at all
    places of a room, and the host learns no number from them. Until slots leave, one can stand for all."""
    layers: dict[int, tuple[_Layer, _Layer]] = field(default_factory=dict)
    prompt_lengths: list[int] = field(init=False)
    written: list[int] = field(init=False)
    """Tokens of each slot's beams whose keys are kept."""
    _pass: _Reading | _Writing | None = None
    _lengths: Int[Tensor, "2 s"] = field(init=False)
    """Of prompts and, with the new token, of answers: written in place, where kernel graphs find them."""

    def __post_init__(self) -> None:
        self.prompt_lengths, self.written = [1] * self.slots, [0] * self.slots
        self._lengths = torch.ones(2, self.slots, dtype=torch.int64, device=self.device)

    def begin_reading(self, slots: Sequence[int], lengths: Sequence[int]) -> Int32[Tensor, " borders"]:
        """The next pass reads new prompts into these slots. Returns the borders between them."""
        for slot, length in zip(slots, lengths, strict=True):
            self.prompt_lengths[slot], self.written[slot] = length, 0
        borders = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        self._pass = _Reading(slots, list(lengths), borders.to(self.device))
        return self._pass.borders

    def begin_writing(self) -> Int[Tensor, " s"]:
        """The next pass reads one new token of each beam. Returns the positions that these have."""
        # A slot that is done and waits for its next prompt computes on without being heard.
        self.written = [min(count + 1, self.max_new_tokens) for count in self.written]
        self._lengths.copy_(moved(torch.tensor([self.prompt_lengths, self.written]), self.device))
        prompts, answers = self._lengths.unbind()
        rooms = (
            (self.longest_prompt, self.max_new_tokens)
            if self.at_fixed_places
            else (max(self.prompt_lengths), max(self.written))
        )
        self._pass = _Writing(prompts, answers, rooms, self.beams)
        return prompts + (answers - 1)

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "rows heads t d"],
        key: Float[Tensor, "rows kv_heads t d"],
        value: Float[Tensor, "rows kv_heads t d"],
        scaling: float | None,
    ) -> Float[Tensor, "rows t heads d"]:
        if (
            self.at_fixed_places
            and isinstance(self._pass, _Writing)
            and layer in self.layers
            and decode_attention.supports_on_gpu(query, self.layers[layer][0].of_prompts)
        ):
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            return decode_attention.attend_new_token_on_gpu(
                query, key, value, self.kept(layer), self._lengths, scale
            )
        key, value = (in_compute_dtype(tensor) for tensor in (key, value))
        if layer not in self.layers:
            self.layers[layer] = (self._room(key), self._room(value))
        kept = self.layers[layer]
        if isinstance(self._pass, _Reading):
            for new, old in zip((key, value), kept, strict=True):
                for slot, part in zip(
                    self._pass.slots, torch.split(new[0], self._pass.lengths, 1), strict=True
                ):
                    old.of_prompts[slot, :, : part.shape[1]] = part
            return packed_attention(in_compute_dtype(query), key, value, self._pass.borders, scaling)
        assert isinstance(self._pass, _Writing)
        for new, old in zip((key, value), kept, strict=True):
            old.of_beams[self._pass.rows, :, self._pass.places] = new[:, :, 0]
        query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if not self.at_fixed_places and decode_attention.supports(kept[0].of_prompts):
            return decode_attention.attend_cached(query.float(), self.kept(layer))
        return self._attend_to_both(in_compute_dtype(query), *kept, self._pass)

    def kept(self, layer: int) -> CachedKeyValues:
        """Where a layer's keys and values lie until slots leave, and how many there are in this pass."""
        keys, values = self.layers[layer]
        prompts, answers = self._lengths.unbind()
        return CachedKeyValues(
            (keys.of_prompts, values.of_prompts), (keys.of_beams, values.of_beams), prompts, answers
        )

    def _attend_to_both(
        self,
        query: Float[Tensor, "rows heads 1 d"],
        keys: _Layer,
        values: _Layer,
        now: _Writing,
    ) -> Float[Tensor, "rows 1 heads d"]:
        """softmax over the prompt's scores and the beam's own, with the prompt's keys read once for all beams."""
        rows, heads, _, d = query.shape
        kv_heads = keys.of_prompts.shape[1]
        shared = heads // kv_heads
        p, g = now.prompt_mask.shape[-1], now.beam_mask.shape[-1]
        by_beam = query.reshape(rows, kv_heads, shared, d)
        by_slot = self._by_slot(by_beam)
        to_prompt = by_slot @ keys.of_prompts[:, :, :p].transpose(-1, -2)
        to_beam = by_beam @ keys.of_beams[:, :, :g].transpose(-1, -2)
        scores = torch.cat(
            (self._by_beam(to_prompt).float() + now.prompt_mask, to_beam.float() + now.beam_mask), dim=-1
        )
        weights = scores.softmax(dim=-1).to(values.of_prompts.dtype)
        from_prompt = self._by_slot(weights[..., :p]) @ values.of_prompts[:, :, :p]
        from_beam = weights[..., p:] @ values.of_beams[:, :, :g]
        return (self._by_beam(from_prompt) + from_beam).reshape(rows, 1, heads, d)

    def _by_slot(self, x: Float[Tensor, "rows kv_heads shared k"]) -> Float[Tensor, "s kv_heads asked k"]:
        """A slot's beams ask their prompt as if they were more heads."""
        if self.beams == 1:
            return x
        _, kv_heads, shared, k = x.shape
        x = x.reshape(self.slots, self.beams, kv_heads, shared, k).transpose(1, 2)
        return x.reshape(self.slots, kv_heads, -1, k)

    def _by_beam(self, x: Float[Tensor, "s kv_heads asked k"]) -> Float[Tensor, "rows kv_heads shared k"]:
        if self.beams == 1:
            return x
        _, kv_heads, _, k = x.shape
        x = x.reshape(self.slots, kv_heads, self.beams, -1, k).transpose(1, 2)
        return x.reshape(self.slots * self.beams, kv_heads, -1, k)

    def _room(self, like: Float[Tensor, "rows kv_heads t d"]) -> _Layer:
        _, kv_heads, _, d = like.shape
        # Zeros: what a mask hides is still multiplied by 0, and 0 x NaN is NaN.
        return _Layer(
            like.new_zeros(self.slots, kv_heads, self.longest_prompt, d),
            like.new_zeros(self.slots * self.beams, kv_heads, self.max_new_tokens, d),
        )

    def follow(self, sources: Int[Tensor, "s b"]) -> None:
        """Each beam goes on from another one of its slot."""
        own = torch.arange(self.beams, device=sources.device)
        if bool((sources == own).all()):
            return
        slot = torch.arange(self.slots, device=sources.device)[:, None]
        rows = (slot * self.beams + sources).flatten()
        g = max(self.written)
        for both in self.layers.values():
            for kept in both:
                kept.of_beams[:, :, :g] = kept.of_beams[rows, :, :g]

    def keep(self, slots: Sequence[int]) -> None:
        """Only these slots stay, in this order."""
        chosen = torch.tensor(slots, device=self.device)
        rows = (chosen[:, None] * self.beams + torch.arange(self.beams, device=self.device)).flatten()
        for both in self.layers.values():
            for kept in both:
                kept.of_prompts, kept.of_beams = kept.of_prompts[chosen], kept.of_beams[rows]
        self.slots = len(slots)
        self._lengths = self._lengths[:, chosen].contiguous()
        self.prompt_lengths = [self.prompt_lengths[slot] for slot in slots]
        self.written = [self.written[slot] for slot in slots]
