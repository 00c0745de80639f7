"""The tokens of summaries for many prompts: a slot of the batch takes the next prompt as soon as it is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from summarizer import compat
from summarizer.adapters.attach import AdaptedModel
from summarizer.config.schema import GenerationConfig
from summarizer.generation.decode_graphs import DecodeStep, decode_step
from summarizer.generation.kv_cache import KVCache
from summarizer.generation.sampling import OneByOne, Search
from summarizer.models.causal_lm import PackedModel
from summarizer.models.transformers_model import TransformersModel
from summarizer.ops.decode_gemm import stored_weights_in_place
from summarizer.ops.prefill_gemm import int8_activations

PREFILL_TOKENS = 4096
"""How many tokens of new prompts one pass reads, unless a single prompt is longer. This bounds what
their activations take."""


@dataclass(frozen=True)
class Decoder:
    """Writes answers of all trials that a model shows now (of the base model, one).

    A model that is none of ours is driven by `transformers.generate`, batch by batch.
    """

    adapted: AdaptedModel
    spec: GenerationConfig
    end_id: int
    pad_id: int
    batch_size: int
    """How many prompts each trial answers at the same time."""
    on_step: Callable[[int, int], None] | None = None
    """Called with the numbers of prompts' tokens that a pass is about to read, and of tokens that a step wrote."""
    int8_prefill: bool = False
    """Whether prompts are read within `int8_activations`."""

    def answers(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[list[int]]]]:
        """Each prompt's number and every trial's tokens after it, end token left out, as soon as they are known.

        Longest prompts come first: prompts of like length waste little, and what does not fit fails early.
        Raises torch.OutOfMemoryError where `batch_size` prompts do not fit; the rest has to be asked again.
        """
        if not prompts:
            return
        model = self.adapted.model
        if isinstance(model, TransformersModel):
            from summarizer.generation import transformers_generate

            yield from transformers_generate.answers(self, model, prompts)
            return
        decoding = self.decoding(prompts)
        while decoding.unfinished:
            yield from decoding.step()

    def stream(self, prompt: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Every trial's tokens as they are written, each as (trial, token); end tokens are left out.

        With beams, whose best is known only at the end, and by `transformers.generate`, all come at the end.
        """
        if self.spec.num_beams > 1 or isinstance(self.adapted.model, TransformersModel):
            for _, answers in self.answers([prompt]):
                for trial, tokens in enumerate(answers):
                    yield from ((trial, token) for token in tokens)
            return
        decoding = self.decoding([prompt])
        going_on = list(range(self.trials))
        while decoding.unfinished:
            decoding.step()
            going_on = [trial for trial in going_on if decoding.last_tokens[trial] != self.end_id]
            yield from ((trial, decoding.last_tokens[trial]) for trial in going_on)

    @property
    def trials(self) -> int:
        return self.adapted.stack.size if self.adapted.stack.enabled else 1

    def decoding(self, prompts: Sequence[Sequence[int]]) -> Decoding:
        """Answers as a model of our own writes them, token by token."""
        model = self.adapted.model
        assert isinstance(model, PackedModel)
        return Decoding(self, model, prompts)


class Decoding:
    """The state of one call: which prompt each slot holds, and what was written there.

    A row of slots for each trial, one behind the other, all with the same prompts: the adapted layers want the rows
    of a trial together, and as many of each.
    """

    def __init__(self, decoder: Decoder, model: PackedModel, prompts: Sequence[Sequence[int]]) -> None:
        self.decoder, self.model, self.prompts = decoder, model, prompts
        spec, device = decoder.spec, decoder.adapted.device
        self.waiting = deque(sorted(range(len(prompts)), key=lambda index: -len(prompts[index])))
        self.held: list[int | None] = [None] * min(decoder.batch_size, len(prompts))
        self.answers: dict[int, dict[int, list[int]]] = {}
        """The answers of trials that are done, by trial, for each prompt that is still held."""
        slots = decoder.trials * len(self.held)
        self.cache = KVCache(
            slots,
            spec.num_beams,
            len(prompts[self.waiting[0]]),
            spec.max_new_tokens,
            device,
            at_fixed_places=decodes_at_fixed_places(device),
        )
        self.search = _search(slots, spec, decoder.end_id, device)
        self.logits: Float[Tensor, "s b v"] | None = None
        self.unread: Int[Tensor, "s b"] | None = None
        """Tokens that were chosen, and that the model has not read yet: who asked for them need not wait for it."""
        self.decode: DecodeStep | None = None
        self.decode_rows = 0
        """How many rows `decode` was made for. Where slots are dropped, what it reads lies elsewhere."""
        self.last_tokens: list[int] = []
        """The token that each slot's first beam wrote in the last step."""

    @property
    def unfinished(self) -> bool:
        """Whether a prompt waits, or has answers that are not complete."""
        return bool(self.waiting) or any(index is not None for index in self.held)

    @torch.no_grad()
    def step(self) -> list[tuple[int, list[list[int]]]]:
        """One more token in every slot. Returns the prompts whose answers are complete by it."""
        # Blocks compiled for training would compile anew for one token.
        with (
            compat.without_compiling(),
            stored_weights_in_place(),
        ):
            if self.unread is not None:
                self._write(self.unread)
            self._fill()
            assert self.logits is not None
            chosen = self.search.advance(self.logits)
            self.last_tokens = chosen.tokens[:, 0].tolist()
            if self.decoder.on_step:
                self.decoder.on_step(0, sum(index is not None for index in self.held) * self.decoder.trials)
            finished = self._collect(chosen.done)
            self.unread = None
            if any(index is not None for index in self.held):
                if chosen.sources is not None:
                    self.cache.follow(chosen.sources)
                self.unread = self._shrink(chosen.tokens)
        return finished

    def _fill(self) -> None:
        """Read waiting prompts into the slots that are free."""
        free = [place for place, index in enumerate(self.held) if index is None]
        while free and self.waiting:
            places = [free.pop(0)]
            self.held[places[0]] = self.waiting.popleft()
            tokens = self.decoder.trials * len(self.prompts[self._held(places[0])])
            while free and self.waiting:
                more = self.decoder.trials * len(self.prompts[self.waiting[0]])
                if tokens + more > PREFILL_TOKENS:
                    break
                tokens += more
                places.append(free.pop(0))
                self.held[places[-1]] = self.waiting.popleft()
            self._read(places)

    def _read(self, places: Sequence[int]) -> None:
        trials, device = self.decoder.trials, self.decoder.adapted.device
        slots = [trial * len(self.held) + place for trial in range(trials) for place in places]
        own = [list(self.prompts[self._held(place)]) for place in places]
        for slot, prompt in zip(slots, own * trials, strict=True):
            self.search.begin(slot, prompt)
        lengths = [len(prompt) for prompt in own]
        if self.decoder.on_step:
            self.decoder.on_step(trials * sum(lengths), 0)
        ids = torch.tensor([token for prompt in own for token in prompt] * trials, device=device)
        lasts = torch.tensor(lengths, device=device).cumsum(0) - 1
        sequences = self.cache.begin_prefill(slots, lengths * trials, rows=trials)
        reading = int8_activations() if self.decoder.int8_prefill else nullcontext()
        with reading:
            new = self.model(ids, sequences, self.cache, at=lasts.expand(trials, -1)).float()
        new = new.reshape(len(slots), 1, -1).expand(-1, self.cache.beams, -1)
        if self.logits is None:
            self.logits = new.new_zeros(self.cache.slots, *new.shape[1:])
        self.logits[slots] = new

    def _write(self, tokens: Tensor) -> None:
        rows, positions = tokens.numel(), self.cache.begin_decode()
        if self.decode is None or rows != self.decode_rows:
            self.decode, self.decode_rows = decode_step(self.model, self.cache, rows), rows
        logits = self.decode(tokens.reshape(-1), positions)
        self.logits = logits.reshape(self.cache.slots, self.cache.beams, -1)

    def _collect(self, done: Sequence[bool]) -> list[tuple[int, list[list[int]]]]:
        """Record the answers that this step completes; a prompt that all trials have answered leaves."""
        finished = []
        for place, index in enumerate(self.held):
            if index is None:
                continue
            answers = self.answers.setdefault(index, {})
            for trial in range(self.decoder.trials):
                slot = trial * len(self.held) + place
                if done[slot] and trial not in answers:
                    answers[trial] = self.search.answer(slot)
            if len(answers) == self.decoder.trials:
                finished.append((index, [answers[trial] for trial in range(self.decoder.trials)]))
                del self.answers[index]
                self.held[place] = None
        return finished

    def _shrink(self, tokens: Tensor) -> Tensor:
        """Drop the slots that are free, once no prompt waits any more. Returns the tokens of the others.

        At fixed places, where the pass has to be captured anew afterwards, this waits until half of them are free.
        """
        stay = [place for place, index in enumerate(self.held) if index is not None]
        most = len(self.held) // 2 if self.cache.at_fixed_places else len(self.held) - 1
        if self.waiting or len(stay) > most:
            return tokens
        slots = [trial * len(self.held) + place for trial in range(self.decoder.trials) for place in stay]
        self.cache.keep(slots)
        self.search.keep(slots)
        self.held = [self.held[place] for place in stay]
        return tokens[slots]

    def _held(self, place: int) -> int:
        index = self.held[place]
        assert index is not None
        return index


def _search(slots: int, spec: GenerationConfig, end_id: int, device: torch.device) -> Search:
    if spec.num_beams == 1:
        return OneByOne(slots, spec, end_id)
    from summarizer.generation.beam_search import BeamSearch

    return BeamSearch(slots, spec, end_id, device)


def decodes_at_fixed_places(device: torch.device) -> bool:
    """Whether tokens are written by a pass that is captured once, as a GPU wants it."""
    return device.type == "cuda"
