"""Which token comes next: greedy choice or sampling, for many articles at once, each at its own length."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from summarizer.config.schema import GenerationConfig


@dataclass(frozen=True)
class Chosen:
    """The tokens that a step of `s` slots with `b` beams each has chosen."""

    tokens: Int[Tensor, "s b"]
    sources: Int[Tensor, "s b"] | None
    """The beam of the slot that each token continues; None where each beam continues itself."""
    done: list[bool]
    """Whether each slot's answer is final."""


@runtime_checkable
class Search(Protocol):
    """What was written so far in each slot, and what comes next."""

    def begin(self, slot: int, prompt: Sequence[int]) -> None:
        """Give a slot a new prompt; nothing is written in it yet."""
        ...

    def advance(self, logits: Float[Tensor, "s b v"]) -> Chosen:
        """Write one more token in every slot."""
        ...

    def answer(self, slot: int) -> list[int]:
        """The slot's tokens, up to its end token and without it."""
        ...

    def keep(self, slots: Sequence[int]) -> None:
        """Drop all slots but these, and put them into this order."""
        ...


class Limits:
    """`min_new_tokens` and `no_repeat_ngram_size`, as transformers defines them: over prompt and answer."""

    def __init__(self, spec: GenerationConfig, end_id: int) -> None:
        self.least, self.end_id = spec.min_new_tokens, end_id
        size = spec.no_repeat_ngram_size
        self.no_repeat: Callable[[Tensor, Tensor], Tensor] | None = None
        if size:  # greedy search as it comes needs nothing of transformers
            from transformers import NoRepeatNGramLogitsProcessor

            self.no_repeat = NoRepeatNGramLogitsProcessor(size)

    def apply(
        self, scores: Float[Tensor, "s b v"], made: Sequence[int], texts: Callable[[int, int], list[int]]
    ) -> Float[Tensor, "s b v"]:
        """Scores with -inf where a token may not come.

        made: tokens written in each slot.  texts: prompt and answer so far of a slot's beam.
        """
        early = [slot for slot, count in enumerate(made) if count < self.least]
        if early:
            scores[early, :, self.end_id] = -torch.inf
        if self.no_repeat is not None:
            for slot in range(scores.shape[0]):
                for beam in range(scores.shape[1]):
                    ids = torch.tensor([texts(slot, beam)], device=scores.device)
                    scores[slot, beam] = self.no_repeat(ids, scores[slot, beam][None])[0]
        return scores


class Warping:
    """`temperature`, `top_k` and `top_p`, in transformers' order. They are for sampling alone."""

    def __init__(self, spec: GenerationConfig) -> None:
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        least = 1 if spec.num_beams == 1 else 2  # so that a beam has something to go on with beside the end
        self.warpers = [
            TemperatureLogitsWarper(spec.temperature),
            *([TopKLogitsWarper(spec.top_k, min_tokens_to_keep=least)] if spec.top_k else []),
            *([TopPLogitsWarper(spec.top_p, min_tokens_to_keep=least)] if spec.top_p < 1 else []),
        ]

    def apply(self, scores: Float[Tensor, "rows v"]) -> Float[Tensor, "rows v"]:
        """The scores to draw by, with -inf where a token cannot be drawn."""
        for warper in self.warpers:
            scores = warper(None, scores)
        return scores


class OneByOne:
    """Greedy search or sampling, without beams. What a slot draws depends on the seed and its prompt alone."""

    def __init__(self, slots: int, spec: GenerationConfig, end_id: int) -> None:
        self.spec, self.end_id = spec, end_id
        self.limits = Limits(spec, end_id)
        self.prompts: list[list[int]] = [[] for _ in range(slots)]
        self.written: list[list[int]] = [[] for _ in range(slots)]
        self.generators: list[torch.Generator | None] = [None] * slots
        self.warping = Warping(spec)

    def begin(self, slot: int, prompt: Sequence[int]) -> None:
        self.prompts[slot], self.written[slot] = list(prompt), []
        self.generators[slot] = torch.Generator().manual_seed(seed_of(self.spec.seed, prompt))

    def advance(self, logits: Float[Tensor, "s 1 v"]) -> Chosen:
        scores = self.limits.apply(
            logits.float().clone(),
            [len(written) for written in self.written],
            lambda slot, _: self.prompts[slot] + self.written[slot],
        )[:, 0]
        tokens = self._drawn(scores) if self.spec.do_sample else scores.argmax(dim=-1)
        for written, token in zip(self.written, tokens.tolist(), strict=True):
            written.append(token)
        done = [
            written[-1] == self.end_id or len(written) >= self.spec.max_new_tokens for written in self.written
        ]
        return Chosen(tokens[:, None], None, done)

    def answer(self, slot: int) -> list[int]:
        return until(self.written[slot], self.end_id)

    def keep(self, slots: Sequence[int]) -> None:
        self.prompts = [self.prompts[slot] for slot in slots]
        self.written = [self.written[slot] for slot in slots]
        self.generators = [self.generators[slot] for slot in slots]

    def _drawn(self, scores: Float[Tensor, "s v"]) -> Int[Tensor, " s"]:
        chances = self.warping.apply(scores).softmax(dim=-1).cpu()
        drawn = [
            torch.multinomial(row, 1, generator=generator)
            for row, generator in zip(chances, self.generators, strict=True)
        ]
        return torch.cat(drawn).to(scores.device)


def seed_of(seed: int, prompt: Sequence[int]) -> int:
    """A generator's seed for one article: the same in every batch, and after a batch that was cut short."""
    digest = hashlib.blake2b(repr((seed, list(prompt))).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def until(ids: list[int], end_id: int) -> list[int]:
    """The ids ahead of the first end token, or a copy of all where there is none."""
    return ids[: ids.index(end_id)] if end_id in ids else list(ids)


def is_end_or_full(ids: Int[Tensor, "s k"], end_id: int, full: Bool[Tensor, " s"]) -> Bool[Tensor, "s k"]:
    """Which continuations end: by the end token, or since no more tokens are allowed."""
    return (ids == end_id) | full[:, None]
