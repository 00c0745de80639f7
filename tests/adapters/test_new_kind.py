"""A new adapter kind is one subclass: this one, which adds each input's mean times a vector, trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tiny_bases import adapted, logits, saved, token_ids
from torch import Tensor

from summarizer.adapters.protocol import Adapter, Parameters, Role, Stacked
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear


class InputAverage(Adapter):
    """Adds each input's mean times a learnt vector; its stack has a first axis of 1."""

    strength: float

    @property
    def scale(self) -> float:
        return self.strength

    @property
    def input_dropout(self) -> float:
        return 0.0

    @property
    def width(self) -> int:
        return 1

    def draw_linear(self, frozen: FrozenLinear, generator: torch.Generator) -> dict[str, Tensor]:
        return {"v": torch.zeros(1, frozen.out_features)}

    def draw_embedding(self, frozen: FrozenEmbedding, generator: torch.Generator) -> dict[str, Tensor]:
        return {"v": torch.zeros(1, frozen.embedding_dim)}

    @staticmethod
    def adapted_linear(frozen: FrozenLinear, x: Tensor, dropped: Tensor | None, stacked: Stacked) -> Tensor:
        return frozen(x) + x.mean(dim=2, keepdim=True) * stacked["v"] * stacked.scale

    @staticmethod
    def adapted_embedding(frozen: FrozenEmbedding, rows: Tensor, ids: Tensor, stacked: Stacked) -> Tensor:
        return rows + stacked["v"] * stacked.scale

    def merged(self, frozen: FrozenLinear | FrozenEmbedding, dense: Tensor, tensors: Parameters) -> Tensor:
        raise NotImplementedError

    def peft_config(self, target_modules: list[str], **more: Any) -> Any:
        raise NotImplementedError

    @classmethod
    def fields_of_peft(
        cls, config: Mapping[str, Any], shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    ) -> dict[str, Any]:
        raise NotImplementedError

    def differences(self, config: Mapping[str, Any]) -> Iterator[str]:
        raise NotImplementedError

    def to_peft(self, role: Role, tensors: Parameters) -> dict[str, Tensor]:
        return dict(tensors)

    def from_peft(self, role: Role, tensors: Parameters) -> dict[str, Tensor]:
        return dict(tensors)


def test_it_trains(tmp_path: Path) -> None:
    kinds = [
        InputAverage(strength=strength, targets=["linear", "head", "embedding"], exclude=[], start_from=None)
        for strength in (1.0, 0.5)
    ]
    model = adapted(saved("gptj", tmp_path), kinds)
    ids = token_ids(4)
    losses = []
    for _ in range(2):
        scores = model.model.logits(ids)
        each = torch.nn.functional.cross_entropy(scores[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        per_trial = each.reshape(2, -1).mean(dim=1)
        per_trial.sum().backward()
        losses.append(per_trial.detach())
        with torch.no_grad():
            for trial in range(2):
                for parameter in model.parameters_of(trial).values():
                    assert parameter.grad is not None
                    parameter -= 0.02 * parameter.grad
        model.zero_grad()
    assert (losses[1] < losses[0]).all()
    assert logits(model.model, ids).isfinite().all()
