"""A base of random weights in a model's true shapes: for benchmarks where the real ones are not at hand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig

from summarizer.models.load import Base
from summarizer.models.meta_model import MetaModel, build_meta_model
from summarizer.models.streaming import fill, quantized

SPREAD = 0.02
"""Standard deviation of every matrix: `initializer_range` of GPT-2 and of nearly every model since."""

log = logging.getLogger(__name__)


def random_base(config: PretrainedConfig, base_format: str, device: torch.device, seed: int) -> Base:
    """What `load_base` would give for a checkpoint of `random_tensors`.

    Tensors are drawn one at a time and quantized as they come: the dense model is never in memory. Only the config
    is read, and changed: its dropout is off.
    """
    meta = build_meta_model(config, base_format)
    name = f"random {config.model_type}"
    # `quantized` names its source in messages alone.
    parts = quantized(meta, random_tensors(meta, device, seed), Path(name), base_format, device)
    fill(meta, parts, device)
    stored_bytes = sum(weight.stored_bytes for weight in meta.weights.values())
    log.info("base model: %s, %s, %.1f MB", name, base_format, stored_bytes / 1e6)
    return Base(meta.model, name, base_format, stored_bytes, meta.unconverted)


def random_tensors(meta: MetaModel, device: torch.device, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Dense tensors under the checkpoint's names: matrices normal in bf16, norms 1, biases 0.

    A pure function of the model's shapes, the kind of device and the seed, whatever the meta's format.
    """
    generator = torch.Generator(device).manual_seed(seed)
    shapes = {
        name: tuple(reversed(weight.shape)) if weight.transposed_in_checkpoint else weight.shape
        for name, weight in meta.weights.items()
    } | {name: tuple(tensor.shape) for name, tensor in meta.plain.items()}
    for name, shape in shapes.items():
        tensor = torch.empty(shape, dtype=torch.bfloat16, device=device)
        if len(shape) > 1:
            yield name, tensor.normal_(0, SPREAD, generator=generator)
        else:
            yield name, tensor.fill_(1.0 if name.endswith("weight") else 0.0)
