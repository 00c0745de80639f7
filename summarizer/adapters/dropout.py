"""Dropout masks as a function of counters: no generator, whose draws depend on what was drawn before.

Whether a feature of a token is dropped is a hash of (seed, step, layer, token, feature). So a trial's mask does
not depend on which trials, microbatches or processes share the pass, and a pass that is recomputed or resumed has
the same mask. After the counter-based generators of Salmon et al. 2011 (doi:10.1145/2063384.2063405).

All numbers that vary are tensors: nothing waits for the device, and compiled code is compiled once.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def trial_keys(seeds: Int[Tensor, " n"], steps: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """What `dropout_mask` takes of each trial, in int64; the same for all layers and passes of a step.

    seeds: int64.  steps: optimizer steps that the trial has done.
    """
    return _folded(_folded(torch.zeros_like(seeds), seeds), steps)


def dropout_mask(
    keys: Int[Tensor, " n"],
    layer: Int[Tensor, ""],
    tokens: Int[Tensor, "n m"],
    features: int,
    keep: Float[Tensor, "n 1 1"],
    dtype: torch.dtype,
) -> Float[Tensor, "n m {features}"]:
    """What to multiply a layer's input by: 0, or 1 / keep with probability `keep`.

    Inverted dropout, Srivastava et al. 2014 (jmlr.org/papers/v15/srivastava14a.html).

    keys: of `trial_keys`.  layer: the layer's number in the model.  tokens: each token's number among those of its
    trial's step, over all microbatches and processes; equal numbers have equal masks.  keep: in (0, 1], to within
    2**-32; 1 drops nothing.
    """
    token_low, token_high = _halves(_folded(_folded(keys, layer)[:, None], tokens)[..., None])
    numbers = torch.arange(features, device=keys.device)
    feature_low, feature_high = _halves(_folded(torch.zeros_like(numbers), numbers))
    # Only these few passes are over the mask itself. The second factor is odd, so that the product has all values;
    # each is another mixture for each token and feature, so that sums over features do not stay sums. A product
    # carries upwards only: its low bits are worse, and the comparison looks at the high ones.
    bits = (feature_low ^ token_low).mul_((feature_high & ~1) + (token_high | 1))
    bound = (keep * 2.0**32).to(torch.int64) - (2**31 + 1)
    kept = bits <= bound.to(torch.int32)
    return kept * keep.reciprocal().to(dtype)


def _halves(state: Tensor) -> tuple[Tensor, Tensor]:
    """The low and the high 32 bits, as int32."""
    return state.to(torch.int32), (state >> 32).to(torch.int32)


def _folded(state: Tensor, part: Tensor) -> Tensor:
    """One 64-bit state from a state and a further number; int64, which wraps around.

    Source: SplitMix64's step and finalizer, Steele et al. 2014 (doi:10.1145/2660193.2660195).
    """
    state = state + part + _signed(0x9E3779B97F4A7C15)
    state = (state ^ _shifted(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shifted(state, 27)) * _signed(0x94D049BB133111EB)
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, places: int) -> Tensor:
    """Shifted right with zeros following, where int64's own shift repeats the sign."""
    return (state >> places) & ((1 << (64 - places)) - 1)


def _signed(constant: int) -> int:
    """The int64 of the same 64 bits."""
    return constant - (1 << 64) if constant >> 63 else constant
