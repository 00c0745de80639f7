"""Adapters on disk in PEFT's format: they load in plain `peft`, and PEFT's load here.

Source: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from summarizer import atomic
from summarizer.adapters.attach import AdaptedModel
from summarizer.adapters.layer import AdaptedLayer
from summarizer.errors import ConfigError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None,),
    "lora_bias": (False, None),
    "trainable_token_indices": (None,),
}
"""PEFT options that would change the arithmetic, and the values at which they do not."""


def save_adapter(adapted: AdaptedModel, trial: int, folder: Path, base_name: str, tokenizer: Any = None) -> None:
    """Write one trial's adapter, with the tokenizer if one is given, whole or not at all.

    Raises OSError (a full disk, say), leaving the folder as it was.
    """
    adapter = adapted.group.adapters[trial]
    own = [name for name, layer in adapted.layers.items() if layer.trials[trial]]
    transposed = any(layer.base.weight.transposed_in_checkpoint for layer in adapted.layers.values())
    config = adapter.peft_config(own, base_model_name_or_path=base_name, fan_in_fan_out=transposed)
    with atomic.new_folder(folder) as scratch:
        config.save_pretrained(scratch)
        save_file(peft_tensors(adapted, trial), scratch / WEIGHTS_FILE, metadata={"format": "pt"})
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)


def peft_tensors(adapted: AdaptedModel, trial: int) -> dict[str, Tensor]:
    """One trial's tensors under PEFT's names, copied to the CPU."""
    kind = type(adapted.group.adapters[trial])
    return {
        f"{PREFIX}{name}.{key}": tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, layer in adapted.layers.items()
        if layer.trials[trial]
        for key, tensor in kind.to_peft(layer.role, layer.trials[trial]).items()
    }


def load_adapter(adapted: AdaptedModel, trial: int, folder: Path, key: str = "adapter.start_from") -> None:
    """Put a PEFT adapter's values into one trial's parameters.

    key: what a message names as the source of the folder. Raises ConfigError where the folder is none, was trained
    with options that this project does not compute, or has other layers, dim or scale than the trial.
    """
    adapter = adapted.group.adapters[trial]
    config = read_config(folder, key)
    _require_same(config, adapter, folder, key)
    try:
        saved = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ConfigError.single(key, f"{folder / WEIGHTS_FILE} is missing or truncated: {error}") from error
    kind = type(adapter)
    used: set[str] = set()
    for name, layer in adapted.layers.items():
        if not layer.trials[trial]:
            continue
        found = {k.removeprefix(f"{PREFIX}{name}."): k for k in saved if k.startswith(f"{PREFIX}{name}.lora_")}
        try:
            values = kind.from_peft(layer.role, {short: saved[full] for short, full in found.items()})
        except KeyError as error:
            raise ConfigError.single(key, f"{folder} has no adapter for {name}; see adapter.targets") from error
        used.update(found.values())
        _copy(layer, trial, values, name, folder, key)
    if unused := sorted(set(saved) - used):
        raise ConfigError.single(
            key, f"{folder} adapts {len(unused)} tensors that adapter.targets leaves out, such as {unused[0]}"
        )


def read_config(folder: Path, key: str = "adapter.start_from") -> dict[str, Any]:
    """An adapter folder's config. Raises ConfigError where it is missing or not a LoRA that we can compute."""
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError.single(key, f"{folder} is no PEFT adapter folder: {path.name}: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ConfigError.single(key, f"{folder} is not a LoRA adapter")
    for option, harmless in UNSUPPORTED.items():
        if option in config and config[option] not in harmless:
            raise ConfigError.single(key, f"{folder} uses {option}={config[option]!r}, which cannot be computed here")
    return config


def _require_same(config: dict[str, Any], adapter: Any, folder: Path, key: str) -> None:
    scale = config["lora_alpha"] / config["r"]
    if config["r"] != adapter.dim:
        raise ConfigError.single(key, f"{folder} has dim {config['r']}, adapter.dim is {adapter.dim}")
    if abs(scale - adapter.scale) > 1e-9:
        raise ConfigError.single(
            key, f"{folder} scales by {scale:g} (alpha {config['lora_alpha']:g}); set adapter.alpha to {config['lora_alpha']:g}"
        )


def _copy(layer: AdaptedLayer, trial: int, values: dict[str, Tensor], name: str, folder: Path, key: str) -> None:
    for tensor, parameter in layer.trials[trial].items():
        if values[tensor].shape != parameter.shape:
            raise ConfigError.single(
                key,
                f"{name} in {folder} is {tuple(values[tensor].shape)}, this model needs {tuple(parameter.shape)}: "
                "it was trained on another base",
            )
        with torch.no_grad():
            parameter.copy_(values[tensor])

