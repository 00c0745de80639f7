"""Tiny unquantized bases, once under this project's adapters and once as transformers has them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from summarizer.adapters.attach import AdaptedModel, attach
from summarizer.adapters.lora import LoRA
from summarizer.adapters.protocol import Adapter

sys.path.append(str(Path(__file__).resolve().parents[1] / "model"))
from model_folders import load, logits, tiny_model, token_ids

__all__ = ["adapted", "fill_randomly", "load", "logits", "lora", "plain", "saved", "tiny_model", "token_ids"]


def lora(dim: int = 2, **more: Any) -> LoRA:
    options: dict[str, Any] = {
        "alpha": None,
        "dropout": 0.0,
        "targets": ["linear", "head", "embedding"],
        "exclude": [],
        "start_from": None,
    }
    return LoRA(dim=dim, **(options | more))


def saved(kind: str, folder: Path) -> Path:
    tiny_model(kind).save_pretrained(folder)
    return folder


def plain(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def adapted(folder: Path, adapters: Sequence[Adapter], seeds: Sequence[int] | None = None) -> AdaptedModel:
    return attach(load(folder).model, adapters, list(range(len(adapters))) if seeds is None else seeds)


def fill_randomly(model: AdaptedModel, trial: int, seed: int = 5) -> None:
    """Values as training might leave them: no B is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters_of(trial).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
