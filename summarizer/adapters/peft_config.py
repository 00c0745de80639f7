"""`adapter_config.json` of a PEFT folder: which of its options can be computed here. Imports nothing heavy.

Source: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        "target_modules",
        "exclude_modules",
        "fan_in_fan_out",
        "layers_to_transform",
        "layers_pattern",
    }
)
"""PEFT options of every kind that change nothing in what a saved adapter computes, or that its tensors show."""
OFF: tuple[Any, ...] = (None, False, [], {})
FROM_THE_BASE = ("pissa", "olora")
"""Initializations that take a part out of the base's weights, which those weights tell by themselves."""


@dataclass(frozen=True)
class PeftKind:
    """What this project computes of one kind of PEFT's adapters.

    An option of its folder that is named nowhere has to be off: one that peft adds later is refused.
    """

    target: str
    """The class here."""
    marker: str
    """How the names of its tensors start, after the layer's."""
    read: frozenset[str]
    """Options whose values are taken over."""
    positive: tuple[str, ...] = ()
    """Those that have to be numbers above 0; the first is a whole number."""
    harmless: frozenset[str] = frozenset()
    """Options that say how it was trained, or with what it started."""
    allowed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Options and the values that can be computed."""


KINDS = {
    "LORA": PeftKind(
        target="summarizer.adapters.lora.LoRA",
        marker="lora_",
        read=frozenset({"r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"}),
        positive=("r", "lora_alpha"),
        harmless=frozenset(
            {"lora_dropout", "runtime_config", "megatron_core", "qalora_group_size", "ensure_weight_tying"}
        ),
        allowed={
            "bias": ("none", None),
            # LoftQ, CorDA, and PiSSA by a random decomposition change the base's weights in ways that no folder
            # tells.
            "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva", *FROM_THE_BASE),
        },
    ),
    "IA3": PeftKind(
        target="summarizer.adapters.ia3.IA3",
        marker="ia3_l",
        read=frozenset({"feedforward_modules"}),
        harmless=frozenset({"init_ia3_weights"}),
    ),
    "MISS": PeftKind(
        target="summarizer.adapters.miss.MiSS",
        marker="miss_block",
        read=frozenset({"r"}),
        positive=("r",),
        harmless=frozenset({"miss_dropout", "mini_r"}),
        # Bat and mini compute something else.
        allowed={"bias": ("none", None), "init_weights": (True, False, None)},
    ),
    "OFT": PeftKind(
        target="summarizer.adapters.oft.OFT",
        marker="oft_",
        read=frozenset({"r", "oft_block_size", "use_cayley_neumann", "num_cayley_neumann_terms"}),
        # peft 0.21 has no use for its dropout, and eps is of coft alone.
        harmless=frozenset({"module_dropout", "eps", "init_weights"}),
        allowed={"bias": ("none", None)},
    ),
    "VERA": PeftKind(
        target="summarizer.adapters.vera.VeRA",
        marker="vera_lambda_",
        read=frozenset({"r", "projection_prng_key"}),
        positive=("r",),
        harmless=frozenset({"save_projection", "vera_dropout", "d_initial", "init_weights"}),
        allowed={"bias": ("none", None)},
    ),
}
"""By `peft_type`."""


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

    Raises ConfigError where the folder is damaged, or its config is missing, of a kind that is not known, without
    its numbers, or has options that this project does not compute.
    """
    require_as_written(folder, key, f"fetch it anew, or delete its {DIGESTS} if you changed it yourself")
    path = folder / CONFIG_FILE
    try:
        config = parse_json(read_own(path, links=True))
    except (OSError, ValueError) as error:
        raise ConfigError.single(key, f"{folder} is no PEFT adapter folder: {path.name}: {error}") from error
    kind = KINDS.get(str(config.get("peft_type"))) if isinstance(config, dict) else None
    if not isinstance(config, dict) or kind is None:
        known = ", ".join(KINDS)
        raise ConfigError.single(key, f"{folder} is no adapter of a kind that is known here ({known})")
    for option, value in config.items():
        if option in HARMLESS | kind.read | kind.harmless:
            continue
        if value not in kind.allowed.get(option, OFF):
            raise ConfigError.single(key, f"{folder} uses {option}={value!r}, which cannot be computed here")
    numbers = [config.get(option) for option in kind.positive]
    if not all(map(_is_positive, numbers)) or not isinstance(numbers[0] if numbers else 1, int):
        told = ", ".join(repr(number) for number in numbers)
        raise ConfigError.single(key, f"{path} has no usable {' and '.join(kind.positive)}: {told}")
    for option in ("use_rslora", "use_dora"):
        if not isinstance(config.get(option, False), bool):
            raise ConfigError.single(key, f"{path}: {option} is {config[option]!r}, not true or false")
    for option in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(option) or {}
        if not isinstance(pattern, dict) or not all(map(_is_positive, pattern.values())):
            raise ConfigError.single(key, f"{path}: {option} is {pattern!r}, not positive numbers by layer")
    return config


def as_peft(kind: Any, target_modules: list[str], **options: Any) -> Any:
    """The `peft` config of a class of peft's, for a trained causal language model."""
    config = kind(target_modules=target_modules, task_type="CAUSAL_LM", inference_mode=True, **options)
    # PEFT makes a set of the list, which would be written in another order each time.
    config.target_modules = target_modules
    return config


def more_than_pairs(config: Mapping[str, Any]) -> str | None:
    """What an adapter is beside low-rank pairs, for programs that add nothing else to a weight; or None."""
    if config["peft_type"] != "LORA":
        return f"of the kind {config['peft_type']}"
    return "a DoRA, which rescales each output" if config.get("use_dora") else None


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
