"""A run's adapter as a folder that plain peft loads onto the base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from summarizer.adapters.attach import roles
from summarizer.adapters.peft_config import CONFIG_FILE, WEIGHTS_FILE, read_config
from summarizer.adapters.peft_format import adapter_of_folder
from summarizer.atomic import write_tensors
from summarizer.config.schema import GenerationConfig
from summarizer.data.prompt import Prompt
from summarizer.errors import ConfigError
from summarizer.exporting.model_folder import generation_config
from summarizer.models.load import load_config
from summarizer.models.meta_model import build_meta_model
from summarizer.runs.trained_run import KEY

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def write_adapter(
    source: Path,
    folder: Path,
    *,
    base_folder: Path,
    base_name: str,
    tokenizer: PreTrainedTokenizerFast,
    prompt: Prompt,
    generation: GenerationConfig,
) -> None:
    """Write a run's adapter, checked against its base's layers, with tokenizer and generation settings.

    base_folder: read for its config alone.  base_name: what the adapter's config calls the base.
    Raises ConfigError for an adapter folder that is broken, not a LoRA's, or of another base.
    """
    config = read_config(source, KEY)
    meta = build_meta_model(load_config(base_folder), "none")
    adapter_of_folder(source, roles(meta.model), KEY)
    try:
        tensors = load_file(source / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ConfigError.single(KEY, f"{source / WEIGHTS_FILE} is missing or truncated: {error}") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ConfigError.single(KEY, f"{name} in {source} holds NaN or infinite values")
    config["base_model_name_or_path"] = base_name
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_tensors(folder / WEIGHTS_FILE, tensors, {"format": "pt"})
    tokenizer.save_pretrained(folder)
    generation_config(generation, prompt, tokenizer).save_pretrained(folder)
