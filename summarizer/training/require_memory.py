"""What cannot fit is refused by its key before a base of gigabytes is loaded: adapters, an article's beams.

Only what would not fit into an otherwise empty device is: how much goes through at once, and how many train beside
each other, is `sizing`'s to choose.
"""

from __future__ import annotations

import torch
from transformers import PretrainedConfig

from summarizer import compat
from summarizer.config.schema import GenerationConfig, RunConfig
from summarizer.errors import ConfigError
from summarizer.training.sizing import GIB, Sizing, cache_bytes, device_memory_bytes, dry_run_of
from summarizer.training.step import Microbatches

BEAM_BYTES = 4 * 4
"""Of one beam and vocabulary entry: its logit, log-probability, score and rank."""
TRAINED_BYTES = 4 * 2
"""Of a trained number: itself and its gradient, without what the optimizer keeps."""
MOST_DIMS_PER_WIDTH = 30
"""Of a block: inputs and outputs of its linear layers, in units of the hidden size; Llama's are some 25."""


def require_generation_fits(
    generation: GenerationConfig,
    prompt_tokens: int,
    config: PretrainedConfig,
    device: torch.device,
    key: str = "generation.num_beams",
) -> None:
    """Raises ConfigError, under `key`, where the beams of one article take more than the device has."""
    if generation.num_beams == 1:
        return
    beams_bytes = generation.num_beams * int(config.get_text_config().vocab_size) * BEAM_BYTES
    wanted_bytes = cache_bytes(generation, prompt_tokens, config) + beams_bytes
    _require(key, f"{generation.num_beams} beams of one article", wanted_bytes, device, "take fewer")


def require_adapter_fits(
    spec: RunConfig, config: PretrainedConfig, dtype: torch.dtype, device: torch.device
) -> None:
    """Raises ConfigError where an adapter and its gradients alone take more than the device has.

    They are counted on a model without weights, which takes a second, where a generous guess says that they may.
    """
    text = config.get_text_config()
    blocks = MOST_DIMS_PER_WIDTH * int(text.num_hidden_layers) * int(text.hidden_size)
    ends = 2 * (int(text.vocab_size) + int(text.hidden_size))
    most_bytes = spec.adapter.width * (blocks + ends) * TRAINED_BYTES
    if most_bytes < device_memory_bytes(device) / 2 or not compat.can_simulate():
        return
    run = dry_run_of([spec], config, dtype, Sizing(0, Microbatches(None, None)))
    numbers = sum(parameter.numel() for parameter in run.adapted.parameters_of(0).values())
    way_out = "a smaller adapter.dim or fewer adapter.targets take less"
    _require(
        "adapter",
        f"{numbers:,} trained numbers and their gradients",
        numbers * TRAINED_BYTES,
        device,
        way_out,
    )


def _require(key: str, what: str, wanted_bytes: int, device: torch.device, way_out: str) -> None:
    free_bytes = device_memory_bytes(device)
    if wanted_bytes > free_bytes:
        raise ConfigError.single(
            key,
            f"{what} would take {wanted_bytes / GIB:,.1f} GiB, and {device} has {free_bytes / GIB:.1f} to give",
            way_out,
        )
