"""A base, and adapters on it, in the shapes and types of a real one, without a weight."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from summarizer import compat
from summarizer.adapters.attach import AdaptedModel
from summarizer.models.causal_lm import CausalLM
from summarizer.models.meta_model import build_meta_model
from summarizer.quantization import weight_format
from summarizer.training.simulate import Part


def fake_base(
    config: PretrainedConfig, format_name: str, mode: AbstractContextManager[Any], device: torch.device
) -> CausalLM:
    """The frozen model that `load_base` would give, on fake tensors of `mode`.

    Only its config is read. A format that keeps the checkpoint's own type (`none`) takes it from the config.
    """
    meta = build_meta_model(config, format_name)
    checkpoint_type = getattr(config.get_text_config(), "dtype", None) or torch.float32
    with mode:
        for weight in meta.weights.values():
            parts = weight_format(format_name).stored_parts(weight.shape, checkpoint_type)
            weight.load(
                {
                    name: torch.empty(shape, dtype=dtype, device=device)
                    for name, (shape, dtype) in parts.items()
                }
            )
        for module in meta.model.module.modules():
            _fake_plain_tensors(module, device)
    meta.model.module.eval()
    return meta.model


def _fake_plain_tensors(module: nn.Module, device: torch.device) -> None:
    """Norms, biases and tables of one module: floats in fp32, as loading leaves them."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(torch.empty(parameter.shape, device=device), requires_grad=False))
    for name, buffer in list(module.named_buffers(recurse=False)):
        if not compat.is_fake(buffer):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))


def resident(adapted: AdaptedModel) -> dict[Part, Sequence[Tensor]]:
    """What lies in memory between two steps, by part; without the optimizer's state."""
    adapters = list(adapted.stacks())
    own = {id(adapter) for adapter in adapters}
    module = adapted.model.module
    return {
        "base": [t for t in (*module.parameters(), *module.buffers()) if id(t) not in own],
        "adapters": [*adapters, adapted.group.scales],
        "gradients": [adapter.grad for adapter in adapters if adapter.grad is not None],
    }
