"""How far a model's answers are from another's on the summaries of a few rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from summarizer.console.progress import Bar
from summarizer.models.causal_lm import CausalLM

LogProbs = Callable[["Example"], Float[Tensor, "m v"]]
"""A model's log-probabilities (natural logarithm) at an example's summary tokens, on the CPU."""


@dataclass(frozen=True)
class Example:
    """A row as training saw it: its tokens, and how many of them come ahead of the summary."""

    ids: tuple[int, ...]
    prompt_tokens: int

    @property
    def summary(self) -> tuple[int, ...]:
        return self.ids[self.prompt_tokens :]


@dataclass(frozen=True)
class Divergence:
    """In nats per summary token, the mean over all of them."""

    kl: float
    """KL(unmerged || merged). Source: Kullback and Leibler 1951."""
    loss: float
    """Of the references' tokens by the merged model."""


@dataclass(frozen=True)
class Reference:
    """What the unmerged model answers: the measure of all others."""

    examples: Sequence[Example]
    log_probs: Sequence[Float[Tensor, "m v"]]

    @classmethod
    def of(cls, examples: Sequence[Example], answer: LogProbs, progress: Bar) -> Reference:
        answers = []
        for example in examples:
            answers.append(answer(example))
            progress.advance()
        return cls(examples, answers)

    @property
    def tokens(self) -> int:
        return sum(len(example.summary) for example in self.examples)

    @property
    def loss(self) -> float:
        """Of the references' tokens by the unmerged model, in nats per token."""
        pairs = zip(self.examples, self.log_probs, strict=True)
        return sum(_nll(example, answer) for example, answer in pairs) / self.tokens

    def divergence(self, answer: LogProbs, progress: Bar) -> Divergence:
        """Of another model with the same vocabulary."""
        kl = nll = 0.0
        for example, own in zip(self.examples, self.log_probs, strict=True):
            other = answer(example)
            # Sums in fp64: where two models are the same, the terms cancel to the last digits.
            kl += float((own.double().exp() * (own.double() - other.double())).sum())
            nll += _nll(example, other)
            progress.advance()
        # Rounding can bring a divergence of nothing a hair below it.
        return Divergence(max(kl / self.tokens, 0.0), nll / self.tokens)


def log_probs_of(model: CausalLM, device: torch.device) -> LogProbs:
    """What a model answers to an example."""

    def answer(example: Example) -> Tensor:
        ids = torch.tensor([example.ids[:-1]], device=device)
        with torch.no_grad():
            logits: Tensor = model.logits(ids)[0, example.prompt_tokens - 1 :]
        return logits.float().log_softmax(dim=-1).cpu()

    return answer


def _nll(example: Example, answer: Float[Tensor, "m v"]) -> float:
    targets = torch.tensor(example.summary)
    return -float(answer.gather(1, targets[:, None]).double().sum())
