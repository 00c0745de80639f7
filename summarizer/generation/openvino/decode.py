"""Summaries' tokens by OpenVINO, one prompt after the other: searched for as this project's own decoder does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from summarizer.config.schema import GenerationConfig
from summarizer.generation.beams import BeamSearch
from summarizer.generation.openvino.running import Running
from summarizer.generation.search import OneByOne, Search


@dataclass(frozen=True)
class OpenVinoDecoder:
    """Writes the answers of the one model that a graph is."""

    running: Running
    spec: GenerationConfig
    end_id: int
    on_step: Callable[[int], None] | None = None
    """Hears of each step how many tokens it wrote."""

    def answers(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[list[int]]]]:
        """Each prompt's number and the tokens after it, end token left out, in the order of the prompts."""
        for index, prompt in enumerate(prompts):
            search = self._search()
            for _ in self._steps(search, prompt):
                pass
            yield index, [search.answer(0)]

    def stream(self, prompt: Sequence[int]) -> Iterator[tuple[int, int]]:
        """The tokens as they are written, each as (0, token), without the end token; those of beams at the end."""
        search = self._search()
        steps = self._steps(search, prompt)
        if self.spec.num_beams == 1:
            yield from ((0, token) for token in steps if token != self.end_id)
            return
        for _ in steps:
            pass
        yield from ((0, token) for token in search.answer(0))

    def _search(self) -> Search:
        if self.spec.num_beams > 1:
            return BeamSearch(1, self.spec, self.end_id, torch.device("cpu"))
        return OneByOne(1, self.spec, self.end_id)

    def _steps(self, search: Search, prompt: Sequence[int]) -> Iterator[int]:
        """The first beam's token of each step, until the answer is final."""
        search.begin(0, prompt)
        logits = self.running.begin(prompt).expand(self.spec.num_beams, -1)
        has_beams = False  # after the prompt there is one sequence, which all of them go on from
        while True:
            chosen = search.advance(logits[None])
            tokens = chosen.tokens[0].tolist()
            if self.on_step:
                self.on_step(1)
            yield tokens[0]
            if chosen.done[0]:
                return
            sources = (
                chosen.sources[0].tolist() if has_beams and chosen.sources is not None else [0] * len(tokens)
            )
            logits = self.running.go_on(tokens, sources)
            has_beams = True
