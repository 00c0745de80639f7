"""Keys and values while summaries are written: a prompt's once for all of its beams, and each beam's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from summarizer.data.batches import moved
from summarizer.models.attention import CausalAttention, Sequences
from summarizer.ops import decode_attention, kernel_graph
from summarizer.ops.decode_attention import CachedKeyValues
from summarizer.ops.elementwise import in_compute_dtype
from summarizer.ops.rotary import RotaryTable, rotate


@dataclass
class _Part:
    """One layer's keys, or its values."""

    of_prompts: Float[Tensor, "s kv_heads p d"]
    of_beams: Float[Tensor, "rows kv_heads g d"]


@dataclass(frozen=True)
class _Prefill:
    """A pass over new prompts, packed one behind the other."""

    slots: Sequence[int]
    lengths: list[int]
    sequences: Sequences


@dataclass
class _Decode:
    """A pass over one new token of each beam. What it computes of the lengths, it computes where these lie."""

    prompt_lengths: Int[Tensor, " s"]
    answer_lengths: Int[Tensor, " s"]
    """With the new token."""
    longest: tuple[int, int]
    """Places of prompts and of answers that are looked at: no length is above."""
    beams: int
    _masks: dict[int | None, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _angles: Float[Tensor, "rows turning"] | None = None

    @cached_property
    def rows(self) -> Int[Tensor, " rows"]:
        return torch.arange(len(self.prompt_lengths) * self.beams, device=self.prompt_lengths.device)

    @cached_property
    def places(self) -> Int[Tensor, " rows"]:
        return self._of_beams(self.answer_lengths - 1)

    def rotated(self, query: Tensor, key: Tensor, rotary: RotaryTable) -> tuple[Tensor, Tensor]:
        """Both turned on a GPU, by one launch where there is a kernel for it."""
        if not rotary.interleaved:
            return rotate(query, rotary), rotate(key, rotary)
        if self._angles is None:  # the same in every layer
            self._angles = torch.cat((rotary.sin, rotary.cos), dim=1)
        return decode_attention.rotate_token(query, key, self._angles, self.rows)

    def masks(self, window: int | None) -> tuple[Float[Tensor, "rows 1 1 p"], Float[Tensor, "rows 1 1 g"]]:
        """What is added to the scores of the prompt's keys, and of the answer's. window: as attention's."""
        if window not in self._masks:
            lengths = self.prompt_lengths[:, None], self.answer_lengths[:, None]
            before = (self.prompt_lengths + self.answer_lengths)[:, None] - (window or 0)
            prompt, answer = (torch.arange(most, device=self.rows.device)[None] for most in self.longest)
            hidden = prompt >= lengths[0], answer >= lengths[1]
            if window is not None:
                hidden = hidden[0] | (prompt < before), hidden[1] | (answer + lengths[0] < before)
            self._masks[window] = self._added(hidden[0]), self._added(hidden[1])
        return self._masks[window]

    def _added(self, hidden: Tensor) -> Float[Tensor, "rows 1 1 t"]:
        mask = torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -torch.inf)
        return self._of_beams(mask)[:, None, None]

    def _of_beams(self, x: Shaped[Tensor, "s ..."]) -> Shaped[Tensor, "rows ..."]:
        # Not repeat_interleave, which on a GPU reads how many there will be.
        return x[:, None].expand(-1, self.beams, *x.shape[1:]).reshape(-1, *x.shape[1:])


@dataclass
class KVCache:
    """The keys and values of `s` slots with `b` beams each. A slot holds one prompt; the next writes over it."""

    slots: int
    beams: int
    longest_prompt: int
    """In tokens, of all that will come."""
    max_new_tokens: int
    device: torch.device
    at_fixed_places: bool = False
    """Decoding reads only what lies at the same place in each pass, in the same shapes: it looks at all places that
    there are, and the host learns no number from it. Until slots leave, one pass can stand for all."""
    layers: dict[int, tuple[_Part, _Part]] = field(default_factory=dict)
    prompt_lengths: list[int] = field(init=False)
    written: list[int] = field(init=False)
    """Tokens of each slot's beams whose keys are kept."""
    _pass: _Prefill | _Decode | None = None
    _lengths: Int[Tensor, "2 s"] = field(init=False)
    """Of prompts and, with the new token, of answers: written in place, where a graph goes on finding them."""

    def __post_init__(self) -> None:
        self.prompt_lengths, self.written = [1] * self.slots, [0] * self.slots
        self._lengths = torch.ones(2, self.slots, dtype=torch.int64, device=self.device)

    # --- passes -----------------------------------------------------------------------------------------------

    def begin_prefill(self, slots: Sequence[int], lengths: Sequence[int], rows: int) -> Sequences:
        """The next pass reads new prompts into these slots. rows: as `Sequences` has them."""
        for slot, length in zip(slots, lengths, strict=True):
            self.prompt_lengths[slot], self.written[slot] = length, 0
        positions = torch.cat([torch.arange(length) for length in lengths]).to(self.device)
        ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(self.device)
        self._pass = _Prefill(slots, list(lengths), Sequences(positions, ends, rows))
        return self._pass.sequences

    def begin_decode(self) -> Int[Tensor, " rows"]:
        """The next pass reads one new token of each beam. Returns the positions that these have."""
        # A slot that is done and waits for its next prompt computes on without being heard.
        self.written = [min(count + 1, self.max_new_tokens) for count in self.written]
        self._lengths.copy_(moved(torch.tensor([self.prompt_lengths, self.written]), self.device))
        prompts, answers = self._lengths.unbind()
        longest = (
            (self.longest_prompt, self.max_new_tokens)
            if self.at_fixed_places
            else (max(self.prompt_lengths), max(self.written))
        )
        self._pass = _Decode(prompts, answers, longest, self.beams)
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
        """Keep the new keys and values, and attend to them and to the earlier ones."""
        if isinstance(self._pass, _Prefill):
            return self._prefill(layer, query, key, value, rotary)
        assert self._pass is not None, "begin_prefill or begin_decode comes before a pass"
        prompts, windowed = self.layers[layer.layer][0].of_prompts, not self._sees_all(layer.window)
        if not windowed and not self.at_fixed_places and decode_attention.supports(prompts):
            q, k, v = (x.float().flatten(1) for x in (query, key, value))
            mixed = decode_attention.attend_new_token(q, k, v, self.cached(layer.layer), rotary, layer.scale)
            return mixed.reshape(query.shape)
        kernel_graph.require(False, "attention")
        if (
            not windowed
            and self.at_fixed_places
            and decode_attention.supports_on_gpu(query[:, :, None], prompts)
        ):
            if rotary is not None:
                query, key = self._pass.rotated(query, key, rotary)
            q, k, v = (x[:, :, None] for x in (query, key, value))
            cached = self.cached(layer.layer)
            mixed = decode_attention.attend_new_token_on_gpu(q, k, v, cached, self._lengths, layer.scale)
            return mixed[:, 0]
        return self._decode_by_torch(layer, query, key, value, rotary, self._pass)

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

    def cached(self, layer: int) -> CachedKeyValues:
        """Where a layer's keys and values lie until slots leave, and how many there are in this pass."""
        keys, values = self.layers[layer]
        prompts, answers = self._lengths.unbind()
        return CachedKeyValues(
            (keys.of_prompts, values.of_prompts), (keys.of_beams, values.of_beams), prompts, answers
        )

    def _decode_by_torch(
        self,
        layer: CausalAttention,
        query: Float[Tensor, "rows heads d"],
        key: Float[Tensor, "rows kv_heads d"],
        value: Float[Tensor, "rows kv_heads d"],
        rotary: RotaryTable | None,
        now: _Decode,
    ) -> Float[Tensor, "rows heads d"]:
        """softmax over the prompt's scores and the beam's own, with the prompt's keys read once for all beams."""
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        keys, values = self.layers[layer.layer]
        for new, part in zip((key, value), (keys, values), strict=True):
            part.of_beams[now.rows, :, now.places] = in_compute_dtype(new).to(part.of_beams.dtype)
        query = in_compute_dtype(query * layer.scale).to(keys.of_prompts.dtype)
        kv_heads, p, g = keys.of_prompts.shape[1], *now.longest
        by_beam = query.unflatten(1, (kv_heads, -1))
        masks = now.masks(None if self._sees_all(layer.window) else layer.window)
        to_prompt = self._by_slot(by_beam) @ keys.of_prompts[:, :, :p].transpose(-1, -2)
        to_beam = by_beam @ keys.of_beams[:, :, :g].transpose(-1, -2)
        scores = torch.cat((self._by_beam(to_prompt).float() + masks[0], to_beam.float() + masks[1]), dim=-1)
        weights = scores.softmax(dim=-1).to(values.of_prompts.dtype)
        from_prompt = self._by_slot(weights[..., :p]) @ values.of_prompts[:, :, :p]
        from_beam = weights[..., p:] @ values.of_beams[:, :, :g]
        return (self._by_beam(from_prompt) + from_beam).flatten(1, 2)

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

    def _allocated(self, like: Float[Tensor, "tokens kv_heads d"]) -> _Part:
        _, kv_heads, d = like.shape
        # Zeros: what a mask hides is still multiplied by 0, and 0 x NaN is NaN.
        return _Part(
            like.new_zeros(self.slots, kv_heads, self.longest_prompt, d),
            like.new_zeros(self.slots * self.beams, kv_heads, self.max_new_tokens, d),
        )

    # --- slots and beams --------------------------------------------------------------------------------------

    def follow(self, sources: Int[Tensor, "s b"]) -> None:
        """Each beam goes on from another one of its slot."""
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
        """Only these slots stay, in this order."""
        chosen = torch.tensor(slots, device=self.device)
        rows = (chosen[:, None] * self.beams + torch.arange(self.beams, device=self.device)).flatten()
        for both in self.layers.values():
            for part in both:
                part.of_prompts, part.of_beams = part.of_prompts[chosen], part.of_beams[rows]
        self.slots = len(slots)
        self._lengths = self._lengths[:, chosen].contiguous()
        self.prompt_lengths = [self.prompt_lengths[slot] for slot in slots]
        self.written = [self.written[slot] for slot in slots]
