"""Beam search as transformers has it, for many articles at once, each at its own length.

Source: `GenerationMixin._beam_search` of transformers 5 (Apache 2.0), whose steps and constants these are, so that
the same scores give the same tokens; there all rows of a batch have the same number of new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from summarizer.config.schema import GenerationConfig
from summarizer.generation.sampling import Chosen, Limits, Warping, is_end_or_full, seed_of, until

NEVER = -1.0e9
"""What transformers takes for a score that must not win."""


class BeamSearch:
    """Beam search in several slots: each has `b` running beams, and the best `b` that have ended."""

    def __init__(self, slots: int, spec: GenerationConfig, end_id: int, device: torch.device) -> None:
        self.spec, self.end_id, self.device = spec, end_id, device
        self.limits, self.warping = Limits(spec, end_id), Warping(spec)
        b, g = spec.num_beams, spec.max_new_tokens
        self.prompts: list[list[int]] = [[] for _ in range(slots)]
        self.generators: list[torch.Generator | None] = [None] * slots
        self.made = torch.zeros(slots, dtype=torch.long, device=device)
        self.running = torch.full((slots, b, g), end_id, device=device)
        self.running_scores = torch.zeros(slots, b, device=device)
        self.ended = torch.full((slots, b, g), end_id, device=device)
        self.ended_scores = torch.full((slots, b), NEVER, device=device)
        self.has_ended = torch.zeros(slots, b, dtype=torch.bool, device=device)
        self.can_improve = torch.ones(slots, 1, dtype=torch.bool, device=device)

    def begin(self, slot: int, prompt: Sequence[int]) -> None:
        self.prompts[slot] = list(prompt)
        self.generators[slot] = torch.Generator().manual_seed(seed_of(self.spec.seed, prompt))
        self.made[slot] = 0
        self.running[slot] = self.ended[slot] = self.end_id
        # Beams start alike: only the first one counts in the first step.
        self.running_scores[slot] = NEVER
        self.running_scores[slot, 0] = 0
        self.ended_scores[slot] = NEVER
        self.has_ended[slot] = False
        self.can_improve[slot] = True

    def advance(self, logits: Float[Tensor, "s b v"]) -> Chosen:
        spec, b, v = self.spec, logits.shape[1], logits.shape[2]
        # A slot that is done and waits for its next article writes on over its last place.
        made = self.made.clamp(max=spec.max_new_tokens - 1)
        scores = self.limits.apply(logits.float().log_softmax(dim=-1), made.tolist(), self._text)
        if spec.do_sample:
            scores = self.warping.apply(scores.flatten(0, 1)).view_as(scores)
        summed = (scores + self.running_scores[:, :, None]).flatten(1)
        top_scores, top = self._candidates(summed, 2 * b)
        sources, ids = top // v, top % v
        texts = self.running.gather(1, sources[:, :, None].expand(-1, -1, self.running.shape[2]))
        texts[torch.arange(len(made), device=self.device), :, made] = ids
        ends = is_end_or_full(ids, self.end_id, made + 1 >= spec.max_new_tokens)

        going_on = top_scores + ends.float() * NEVER
        best = going_on.topk(b).indices
        self.running, self.running_scores = _taken(texts, best), going_on.gather(1, best)

        self._end(texts, top_scores, ends, made)
        self.made = made + 1
        reachable = self.running_scores[:, :1] / self.made[:, None] ** spec.length_penalty
        worst = torch.where(self.has_ended, self.ended_scores.amin(dim=1, keepdim=True), NEVER)
        self.can_improve &= (reachable > worst).any(dim=1, keepdim=True)
        full = self.has_ended.all(dim=1) & spec.early_stopping
        done = ~self.can_improve[:, 0] | full | ends.all(dim=1)
        return Chosen(ids.gather(1, best), sources.gather(1, best), done.tolist())

    def answer(self, slot: int) -> list[int]:
        return until(self.ended[slot, 0].tolist(), self.end_id)

    def keep(self, slots: Sequence[int]) -> None:
        self.prompts = [self.prompts[slot] for slot in slots]
        self.generators = [self.generators[slot] for slot in slots]
        for name in (
            "made",
            "running",
            "running_scores",
            "ended",
            "ended_scores",
            "has_ended",
            "can_improve",
        ):
            setattr(self, name, getattr(self, name)[list(slots)])

    def _candidates(
        self, summed: Float[Tensor, "s bv"], count: int
    ) -> tuple[Float[Tensor, "s k"], Int[Tensor, "s k"]]:
        """The best continuations with their scores: enough of them that as many as there are beams continue, even
        if every beam's likeliest token is the end."""
        if not self.spec.do_sample:
            top = summed.topk(count)
            return top.values, top.indices
        chances = summed.softmax(dim=-1).cpu()
        drawn = torch.stack(
            [
                torch.multinomial(row, count, generator=generator)
                for row, generator in zip(chances, self.generators, strict=True)
            ]
        ).to(self.device)
        # The best first, as topk gives them: only of the first half do those count that end.
        scores, order = summed.gather(1, drawn).sort(dim=1, descending=True)
        return scores, drawn.gather(1, order)

    def _end(
        self,
        texts: Int[Tensor, "s k g"],
        scores: Float[Tensor, "s k"],
        ends: Tensor,
        made: Int[Tensor, " s"],
    ) -> None:
        """Take the candidates that end among the best, by score over length to the power of the penalty."""
        b = self.spec.num_beams
        # The others only wait in case that all of the best end.
        just_ended = ends & (torch.arange(2 * b, device=self.device) < b)
        scores = scores / (made[:, None] + 1) ** self.spec.length_penalty
        full = self.has_ended.all(dim=1, keepdim=True) & self.spec.early_stopping
        scores = scores + full.float() * NEVER
        scores = scores + (~self.can_improve).float() * NEVER
        scores = scores + (~just_ended).float() * NEVER
        merged = torch.cat((self.ended_scores, scores), dim=1)
        best = merged.topk(b).indices
        self.ended = _taken(torch.cat((self.ended, texts), dim=1), best)
        self.has_ended = torch.cat((self.has_ended, just_ended), dim=1).gather(1, best)
        self.ended_scores = merged.gather(1, best)

    def _text(self, slot: int, beam: int) -> list[int]:
        written: list[int] = self.running[slot, beam, : int(self.made[slot])].tolist()
        return self.prompts[slot] + written


def _taken(texts: Int[Tensor, "s k g"], which: Int[Tensor, "s b"]) -> Int[Tensor, "s b g"]:
    return texts.gather(1, which[:, :, None].expand(-1, -1, texts.shape[2]))
