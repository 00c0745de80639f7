"""`adapter_config.json` of a PEFT folder: which of its options can be computed here. Imports nothing heavy.

Source: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from summarizer.digests import DIGESTS, check_digests
from summarizer.errors import ConfigError
from summarizer.files import read_own
from summarizer.json_files import parse_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
KEY = "adapter.start_from"

HARMLESS = frozenset(
    {
        "task_type",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "lora_alpha",
        "lora_dropout",
        "use_rslora",
        "target_modules",
        "exclude_modules",
        "fan_in_fan_out",
        "layers_to_transform",
        "layers_pattern",
        "runtime_config",
        "megatron_core",
        "qalora_group_size",
        "ensure_weight_tying",
    }
)
"""PEFT options that are read, that change nothing in what a saved adapter computes, or that its tensors show."""
ALLOWED: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}
"""Options and the values at which they change nothing. Other initializations (PiSSA, OLoRA, LoftQ, CorDA)
change the base's own weights. An option not named here must be off: one that peft adds later is refused."""


def require_as_written(folder: Path, key: str, way_on: str) -> None:
    """Raises ConfigError where the digests in an adapter folder, if there are any, are not of its files.

    key: what a message names as the source of the folder.  way_on: how the message ends.
    """
    try:
        check_digests(folder)
    except (OSError, ValueError) as error:
        raise ConfigError.single(key, f"{folder}: {error}; {way_on}") from error


def read_adapter_config(folder: Path, key: str = KEY) -> dict[str, Any]:
    """An adapter folder's config.

    Raises ConfigError where the folder is damaged, or its config is missing, not a LoRA's, without its r and
    lora_alpha, or has options that this project does not compute.
    """
    require_as_written(folder, key, f"fetch it anew, or delete its {DIGESTS} if you changed it yourself")
    path = folder / CONFIG_FILE
    try:
        config = parse_json(read_own(path, links=True))
    except (OSError, ValueError) as error:
        raise ConfigError.single(key, f"{folder} is no PEFT adapter folder: {path.name}: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ConfigError.single(key, f"{folder} is not a LoRA adapter")
    for option, value in config.items():
        if option in HARMLESS:
            continue
        if value not in ALLOWED.get(option, (None, False, [], {})):
            raise ConfigError.single(key, f"{folder} uses {option}={value!r}, which cannot be computed here")
    dim, alpha = config.get("r"), config.get("lora_alpha")
    usable = type(dim) is int and dim >= 1 and isinstance(alpha, int | float) and 0 < alpha < math.inf
    if not usable:
        raise ConfigError.single(key, f"{path} has no usable r and lora_alpha: {dim!r}, {alpha!r}")
    if not isinstance(config.get("use_rslora", False), bool):
        raise ConfigError.single(key, f"{path}: use_rslora is {config['use_rslora']!r}, not true or false")
    return config


def scale_of(config: dict[str, Any]) -> float:
    """What the product of each pair is multiplied by."""
    dim: int = config["r"]
    alpha: float = config["lora_alpha"]
    return alpha / (math.sqrt(dim) if config.get("use_rslora") else dim)
