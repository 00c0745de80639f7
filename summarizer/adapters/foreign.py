"""An adapter that was trained elsewhere, told from its PEFT folder alone."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from summarizer.adapters.lora import LoRA
from summarizer.adapters.peft_config import WEIGHTS_FILE, read_config
from summarizer.adapters.peft_format import PREFIX
from summarizer.adapters.protocol import Role
from summarizer.errors import ConfigError


def adapter_of_folder(folder: Path, roles: dict[str, Role], key: str) -> LoRA:
    """The config with which `attach` makes the layers that a PEFT folder has values for.

    roles: of the base's layers that can be adapted, by name.  key: what a message names as the folder's source.
    Raises ConfigError where the folder is no LoRA's that can be computed here, or adapts what this base has not.
    """
    config = read_config(folder, key)
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as tensors:
            names = {name.removeprefix(PREFIX) for name in tensors.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        raise ConfigError.single(key, f"{folder / WEIGHTS_FILE} is missing or truncated: {error}") from error
    adapted = {name.partition(".lora_")[0] for name in names if ".lora_" in name}
    if strange := sorted(adapted - set(roles)):
        raise ConfigError.single(
            key,
            f"{folder} adapts {strange[0]}, which this base has no layer for: it was trained on another one",
        )
    if not adapted:
        raise ConfigError.single(key, f"{folder / WEIGHTS_FILE} has no LoRA tensor")
    return LoRA(
        targets=sorted({roles[name] for name in adapted}),
        exclude=[name for name in roles if name not in adapted],
        start_from=None,
        dim=config["r"],
        alpha=float(config["lora_alpha"]),
        dropout=0.0,
    )
