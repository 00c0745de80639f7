"""Summaries' tokens for many prompts: slots of a batch are filled again as soon as an answer is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from summarizer.adapters.attach import AdaptedModel
from summarizer.config.schema import GenerationConfig
from summarizer.generation.beams import BeamSearch
from summarizer.generation.graphed_pass import FixedPass, GraphedPass
from summarizer.generation.key_values import KeyValues
from summarizer.generation.search import OneByOne, Search
from summarizer.generation.token_pass import TokenPass, token_pass
from summarizer.generation.transformers_generate import generate
from summarizer.models.attention import attending_by, packs_examples
from summarizer.models.nll import head_at
from summarizer.ops.decode_gemm import stored_weights_in_place
from summarizer.ops.prefill_gemm import int8_activations

TOKENS_READ_AT_ONCE = 4096
"""Of new prompts in one pass, unless a single one is longer: bounds what their activations take."""


@dataclass(frozen=True)
class Decoder:
    """Writes answers of all trials that a model shows now (of the base alone, one).

    A model whose attention is not this project's is driven by `transformers.generate`, batch by batch.
    """

    adapted: AdaptedModel
    spec: GenerationConfig
    end_id: int
    pad_id: int
    at_once: int
    """Prompts, of each trial."""
    on_step: Callable[[int], None] | None = None
    """Hears of each step how many tokens it wrote."""
    read_in_int8: bool = False
    """Prompts are read within `int8_activations`."""

    def answers(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[list[int]]]]:
        """Each prompt's number and every trial's tokens after it, end token left out, as soon as they are known.

        Longest prompts come first: prompts of like length waste little, and what does not fit fails early.
        Raises torch.OutOfMemoryError where `at_once` prompts do not fit; the rest has to be asked again.
        """
        if not prompts:
            return
        if not self._keeps_key_values(prompts):
            yield from self._by_transformers(prompts)
            return
        writing = _Writing(self, prompts)
        while writing.goes_on():
            yield from writing.step()

    def stream(self, prompt: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Every trial's tokens as they are written, each as (trial, token); end tokens are left out.

        With beams, whose best is known only at the end, and by `transformers.generate`, all come at the end.
        """
        if self.spec.num_beams > 1 or not self._keeps_key_values([prompt]):
            for _, answers in self.answers([prompt]):
                for trial, tokens in enumerate(answers):
                    yield from ((trial, token) for token in tokens)
            return
        writing = _Writing(self, [prompt])
        going_on = list(range(self.trials))
        while writing.goes_on():
            writing.step()
            going_on = [trial for trial in going_on if writing.last_tokens[trial] != self.end_id]
            yield from ((trial, writing.last_tokens[trial]) for trial in going_on)

    @property
    def trials(self) -> int:
        return self.adapted.group.size if self.adapted.group.enabled else 1

    def _keeps_key_values(self, prompts: Sequence[Sequence[int]]) -> bool:
        return packs_examples(self.adapted.model, max(map(len, prompts)) + self.spec.max_new_tokens)

    def _by_transformers(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[list[int]]]]:
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        for start in range(0, len(order), self.at_once):
            batch = order[start : start + self.at_once]
            answers = generate(
                self.adapted.model,
                [prompts[index] for index in batch],
                self.spec,
                trials=self.trials,
                end_id=self.end_id,
                pad_id=self.pad_id,
                device=self.adapted.device,
            )
            for place, index in enumerate(batch):
                yield index, [of_trial[place] for of_trial in answers]


class _Writing:
    """The state of one call: which prompt each slot holds, and what was written there.

    A row of slots for each trial, one behind the other, all with the same prompts: the adapted layers want the rows
    of a trial together, and as many of each.
    """

    def __init__(self, decoder: Decoder, prompts: Sequence[Sequence[int]]) -> None:
        self.decoder, self.prompts = decoder, prompts
        spec, device = decoder.spec, decoder.adapted.device
        self.waiting = deque(sorted(range(len(prompts)), key=lambda index: -len(prompts[index])))
        self.held: list[int | None] = [None] * min(decoder.at_once, len(prompts))
        self.answers: dict[int, dict[int, list[int]]] = {}
        """Of the prompts that are held, those of trials that are done."""
        slots = decoder.trials * len(self.held)
        self.key_values = KeyValues(
            slots,
            spec.num_beams,
            len(prompts[self.waiting[0]]),
            spec.max_new_tokens,
            device,
            at_fixed_places=fixed_pass(device) is not None,
        )
        self.search: Search = (
            BeamSearch(slots, spec, decoder.end_id, device)
            if spec.num_beams > 1
            else OneByOne(slots, spec, decoder.end_id)
        )
        self.logits: Float[Tensor, "s b v"] | None = None
        self.unread: Int[Tensor, "s b"] | None = None
        """Tokens that were chosen, and that the model has not read yet: who asked for them need not wait for it."""
        self.token_pass: TokenPass | FixedPass | None = None
        self.rows_taken_down = 0
        """For which `token_pass` is, or is None; where slots leave, what it reads lies elsewhere."""
        self.last_tokens: list[int] = []
        """Of each slot's first beam."""

    def goes_on(self) -> bool:
        return bool(self.waiting) or any(index is not None for index in self.held)

    @torch.no_grad()
    def step(self) -> list[tuple[int, list[list[int]]]]:
        """One more token in every slot. Returns the prompts whose answers are complete by it."""
        # Blocks compiled for training would compile anew for one token.
        with (
            torch.compiler.set_stance("force_eager"),
            attending_by(self.key_values),
            stored_weights_in_place(),
        ):
            if self.unread is not None:
                self._write(self.unread)
            self._fill()
            assert self.logits is not None
            chosen = self.search.advance(self.logits)
            self.last_tokens = chosen.tokens[:, 0].tolist()
            if self.decoder.on_step:
                self.decoder.on_step(sum(index is not None for index in self.held) * self.decoder.trials)
            finished = self._collect(chosen.done)
            self.unread = None
            if any(index is not None for index in self.held):
                if chosen.sources is not None:
                    self.key_values.follow(chosen.sources)
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
                if tokens + more > TOKENS_READ_AT_ONCE:
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
        ids = torch.tensor([token for prompt in own for token in prompt], device=device)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(device)
        lasts = torch.tensor(lengths, device=device).cumsum(0) - 1
        borders = self.key_values.begin_reading(slots, lengths * trials)
        reading = int8_activations() if self.decoder.read_in_int8 else nullcontext()
        with reading, head_at(self.decoder.adapted.model, lasts.expand(trials, -1)):
            new = self._forward(
                ids.repeat(1, trials), borders.reshape(1, 1, 1, -1), positions.repeat(1, trials)
            )
        new = new.reshape(len(slots), 1, -1).expand(-1, self.key_values.beams, -1)
        if self.logits is None:
            self.logits = new.new_zeros(self.key_values.slots, *new.shape[1:])
        self.logits[slots] = new

    def _write(self, tokens: Tensor) -> None:
        beams, rows = self.key_values.beams, tokens.numel()
        positions = self.key_values.begin_writing()[:, None].expand(-1, beams).reshape(-1)
        if rows != self.rows_taken_down:
            model, device = self.decoder.adapted.model, self.decoder.adapted.device
            fixed = fixed_pass(device)
            self.token_pass = (
                fixed(model, rows, device) if fixed else token_pass(model, self.key_values, rows)
            )
            self.rows_taken_down = rows
        if self.token_pass is not None:
            logits = self.token_pass(tokens.reshape(-1), positions)
        else:
            borders = torch.zeros(1, 1, 1, 1, dtype=torch.int32, device=tokens.device)
            logits = self._forward(tokens.reshape(-1, 1), borders, positions[:, None])
        self.logits = logits.reshape(self.key_values.slots, beams, -1)

    def _forward(self, ids: Tensor, borders: Tensor, positions: Tensor) -> Tensor:
        model = self.decoder.adapted.model
        out: Tensor = model(
            input_ids=ids, attention_mask=borders, position_ids=positions, use_cache=False
        ).logits
        return out.float()

    def _collect(self, done: Sequence[bool]) -> list[tuple[int, list[list[int]]]]:
        """Take down what is done for the first time; a prompt leaves when all trials have answered it."""
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
        """Where nothing waits any more, let free slots go. Returns the tokens of those that stay.

        At fixed places, where the pass would be captured anew for each that goes: once half of them are free.
        """
        stay = [place for place, index in enumerate(self.held) if index is not None]
        most = len(self.held) // 2 if self.key_values.at_fixed_places else len(self.held) - 1
        if self.waiting or len(stay) > most:
            return tokens
        slots = [trial * len(self.held) + place for trial in range(self.decoder.trials) for place in stay]
        self.key_values.keep(slots)
        self.search.keep(slots)
        self.held = [self.held[place] for place in stay]
        return tokens[slots]

    def _held(self, place: int) -> int:
        index = self.held[place]
        assert index is not None
        return index


def fixed_pass(device: torch.device) -> type[FixedPass] | None:
    """What writes tokens at fixed places; None where tokens are written as a processor writes them."""
    return GraphedPass if device.type == "cuda" else None
