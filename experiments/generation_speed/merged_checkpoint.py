"""Merged weights as the converters of engines read them, and what several of these engines want of them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor


class Checkpoint:
    """Tensors of a model folder by name, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        files = {"model.safetensors"}
        if index.is_file():
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        self._opened = [safe_open(folder / name, framework="pt") for name in sorted(files)]
        self._of = {name: opened for opened in self._opened for name in opened.keys()}  # noqa: SIM118 - safe_open is no mapping

    def __call__(self, name: str) -> Tensor:
        tensor: Tensor = self._of[name].get_tensor(name)
        return tensor

    def __contains__(self, name: str) -> bool:
        return name in self._of


def sliced_rotary(weight: Tensor, heads: int, dims: int) -> Tensor:
    """Rows of a projection in the order in which pairs that turn together lie half of `dims` apart.

    GPT-J turns neighbors. Scores do not change where queries' and keys' rows are moved alike.
    """
    per_head = weight.reshape(heads, -1, weight.shape[1])
    turned = per_head[:, :dims].reshape(heads, dims // 2, 2, -1).transpose(1, 2).flatten(1, 2)
    return torch.cat([turned, per_head[:, dims:]], dim=1).reshape(weight.shape)


def neighboring_rotary(weight: Tensor, heads: int) -> Tensor:
    """Rows of a projection in the order in which pairs that turn together are neighbors; Llama's lie half a head
    apart."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
