"""Optimizer state as safetensors: tensors in one file, everything else as JSON. No pickle, hence no code to run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from summarizer.atomic import write_tensors


def save_state(state: Any, stem: Path) -> None:
    """Write nested dicts, lists, tuples, tensors and plain values as `stem`.safetensors and `stem`.json."""
    tensors: dict[str, Tensor] = {}
    tree = _packed(state, tensors)
    write_tensors(stem.with_suffix(".safetensors"), tensors)
    stem.with_suffix(".json").write_text(json.dumps(tree), encoding="utf-8")


def load_state(stem: Path) -> Any:
    """What `save_state` wrote, types and bits unchanged. Raises OSError, ValueError or SafetensorError."""
    tree = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    return _unpacked(tree, load_file(stem.with_suffix(".safetensors")))


def _packed(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        name = str(len(tensors))
        tensors[name] = node.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(node, dict):
        # Optimizers key their state by number, which a JSON object would turn into text.
        return {"dict": [[key, _packed(value, tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return {type(node).__name__: [_packed(value, tensors) for value in node]}
    if node is None or isinstance(node, bool | int | float | str):
        return {"value": node}
    raise TypeError(f"{type(node).__name__} in an optimizer's state cannot be saved")


def _unpacked(node: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpacked(value, tensors) for key, value in content}
    if kind == "list":
        return [_unpacked(value, tensors) for value in content]
    if kind == "tuple":
        return tuple(_unpacked(value, tensors) for value in content)
    return content
