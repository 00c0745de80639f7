"""Frequencies of rotary positions, and the ways in which configs stretch them for longer contexts."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor
from transformers import PretrainedConfig

KNOWN = ("default", "linear", "llama3", "yarn")
"""By the name that configs give them."""


def unsupported_scaling(config: PretrainedConfig, *, partial: bool = False) -> str | None:
    """What a config's rope_parameters ask for and this file does not compute.

    partial: whether the family turns the first part of each head alone where its config says so.
    """
    given = getattr(config, "rope_parameters", None)
    if not isinstance(given, dict) or "rope_theta" not in given:
        return f"rope_parameters {given!r}"
    if given.get("rope_type", "default") not in KNOWN:
        return f"rope_type {given['rope_type']!r}"
    if not partial and given.get("partial_rotary_factor") not in (None, 1, 1.0):
        return f"partial_rotary_factor {given['partial_rotary_factor']!r}"
    return None


def frequencies_of(config: PretrainedConfig) -> tuple[Float32[Tensor, " half"], float]:
    """Each pair's angle from one position to the next, and a factor of cosines and sines.

    Source: Su et al. 2021 (arXiv:2104.09864); for `linear` Chen et al. 2023 (arXiv:2306.15595), for `llama3` Llama
    3.1's published code, for `yarn` Peng et al. 2023 (arXiv:2309.00071).
    """
    given = config.rope_parameters
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    turning = int(head_dim * (given.get("partial_rotary_factor") or 1.0))
    plain = 1.0 / given["rope_theta"] ** (torch.arange(0, turning, 2, dtype=torch.float) / turning)
    kind = given.get("rope_type", "default")
    if kind == "linear":
        return plain / given["factor"], 1.0
    if kind == "llama3":
        return _llama3(plain, given), 1.0
    if kind == "yarn":
        return _yarn(plain, given, config.max_position_embeddings)
    return plain, 1.0


def _llama3(plain: Tensor, given: dict[str, Any]) -> Tensor:
    """Slow frequencies are divided by the factor, fast ones stay, and those in between go from one to the other."""
    factor, length = given["factor"], given["original_max_position_embeddings"]
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    wavelength = 2 * math.pi / plain
    share = (length / wavelength - low) / (high - low)
    between = (1 - share) * plain / factor + share * plain
    scaled = torch.where(wavelength > length / low, plain / factor, plain)
    is_between = ~(wavelength < length / high) & ~(wavelength > length / low)
    return torch.where(is_between, between, scaled)


def _yarn(plain: Tensor, given: dict[str, Any], max_positions: int) -> tuple[Tensor, float]:
    """Pairs that turn often within the original length stay, those that turn seldom are divided by the factor."""
    length = given["original_max_position_embeddings"]
    factor = given["factor"] if given["factor"] is not None else max_positions / length
    half, theta = len(plain), given["rope_theta"]

    def pair_that_turns(times: float) -> float:
        return 2 * half * math.log(length / (times * 2 * math.pi)) / (2 * math.log(theta))

    first = pair_that_turns(float(given.get("beta_fast") or 32))
    last = pair_that_turns(float(given.get("beta_slow") or 1))
    if given.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * half - 1)
    last = last + 0.001 if first == last else last
    ramp = ((torch.arange(half, dtype=torch.float32) - first) / (last - first)).clamp(0, 1)
    scaled = plain / factor * ramp + plain * (1 - ramp)
    return scaled, _sharpness(given, float(factor))


def _sharpness(given: dict[str, Any], factor: float) -> float:
    def of(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if (own := given.get("attention_factor")) is not None:
        return float(own)
    mscale, mscale_all = given.get("mscale"), given.get("mscale_all_dim")
    return of(float(mscale)) / of(float(mscale_all)) if mscale and mscale_all else of(1.0)
