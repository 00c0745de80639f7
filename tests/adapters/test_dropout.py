"""Dropout masks against the same hash in Python's integers, and against what chance would draw."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from summarizer.adapters import dropout
from summarizer.adapters.dropout import dropout_mask, trial_keys

WORD, HALF = 2**64 - 1, 2**32 - 1


def masks(
    seeds: list[int],
    steps: list[int],
    layer: int,
    tokens: Tensor,
    features: int,
    keep: float | list[float] = 0.5,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    kept = [keep] * len(seeds) if isinstance(keep, float) else keep
    return dropout_mask(
        trial_keys(torch.tensor(seeds), torch.tensor(steps)),
        torch.tensor(layer),
        tokens.expand(len(seeds), -1),
        features,
        torch.tensor(kept).reshape(-1, 1, 1),
        dtype,
    )


def folded(state: int, part: int) -> int:
    """SplitMix64 (Steele et al. 2014) in integers that do not wrap around."""
    state = (state + part + 0x9E3779B97F4A7C15) & WORD
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD
    return state ^ (state >> 31)


def kept_by_hand(seed: int, step: int, layer: int, token: int, feature: int, keep: float) -> bool:
    own = folded(folded(folded(folded(0, seed), step), layer), token)
    other = folded(0, feature)
    bits = (((own ^ other) & HALF) * (((other >> 32) & ~1) + ((own >> 32) | 1))) & HALF
    return ((bits + 2**31) & HALF) < int(keep * 2**32)  # int32 counts from -2**31


def test_the_hash_is_the_one_in_plain_integers() -> None:
    seeds, steps, keep = [0, 7, 2**63 - 1], [0, 3, 10**9], [0.5, 0.75, 0.25]
    tokens = torch.tensor([0, 1, 2, 1000, 2**31])
    found = masks(seeds, steps, 11, tokens, 37, keep)
    assert found.shape == (3, 5, 37)
    for i, j, k in itertools.product(range(3), range(5), range(37)):
        kept = kept_by_hand(seeds[i], steps[i], 11, int(tokens[j]), k, keep[i])
        assert found[i, j, k] == (1 / keep[i] if kept else 0.0)


def test_splitmix_is_the_published_one() -> None:
    """First outputs for the seed 1234567, as published with the algorithm (rosettacode.org/wiki/Splitmix64)."""
    keys = trial_keys(torch.tensor([0]), torch.tensor([0]))
    assert int(keys[0]) & WORD == folded(folded(0, 0), 0)
    assert folded(1234567, 0) == 6457827717110365317


def test_a_tokens_mask_does_not_depend_on_what_shares_the_pass() -> None:
    tokens = torch.arange(12)
    whole = masks([5, 6, 7], [2, 4, 4], 3, tokens, 50, 0.8)
    for i, (seed, step) in enumerate([(5, 2), (6, 4), (7, 4)]):
        alone = masks([seed], [step], 3, tokens, 50, 0.8)
        assert torch.equal(alone[0], whole[i]), "other trials"
        parts = [masks([seed], [step], 3, part, 50, 0.8) for part in tokens.split(5)]
        assert torch.equal(torch.cat(parts, dim=1)[0], whole[i]), "other microbatches"
        order = torch.tensor([7, 2, 11, 0])
        assert torch.equal(masks([seed], [step], 3, order, 50, 0.8)[0], whole[i, order]), "other places"


def test_nothing_is_dropped_where_all_is_kept_and_each_trial_has_its_own_rate() -> None:
    found = masks([1, 2, 3], [0, 0, 0], 0, torch.arange(2000), 100, [1.0, 0.9, 0.3])
    assert torch.equal(found[0], torch.ones_like(found[0]))
    for i, keep in ((1, 0.9), (2, 0.3)):
        assert set(found[i].unique().tolist()) == {0.0, (1 / torch.tensor(keep)).item()}
        deviation = (found[i] > 0).double().mean().item() - keep
        assert abs(deviation) < 4.5 * math.sqrt(keep * (1 - keep) / found[i].numel())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_in_every_precision_the_same_features_are_dropped(dtype: torch.dtype) -> None:
    single = masks([1], [0], 0, torch.arange(8), 64, 0.9)
    other = masks([1], [0], 0, torch.arange(8), 64, 0.9, dtype)
    assert other.dtype == dtype
    assert torch.equal(other, single.to(dtype) if dtype != torch.float64 else single.double())


def centerd(mask: Tensor, keep: float) -> Tensor:
    """Of mean 0 and variance 1 under independent draws."""
    return ((mask > 0).float() - keep) / math.sqrt(keep * (1 - keep))


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_neighbors_are_independent(keep: float) -> None:
    """Correlations of masks that differ by one in one number are as small as chance makes them."""
    tokens, features = torch.arange(4000), 256
    here = centerd(masks([5], [9], 4, tokens, features, keep), keep)
    others = {
        "seed": masks([6], [9], 4, tokens, features, keep),
        "step": masks([5], [10], 4, tokens, features, keep),
        "layer": masks([5], [9], 5, tokens, features, keep),
        "token": masks([5], [9], 4, tokens + 1, features, keep),
        "feature": masks([5], [9], 4, tokens, features + 1, keep)[..., 1:],
    }
    others["seed and step swapped"] = masks([9], [5], 4, tokens, features, keep)
    for name, other in others.items():
        score = (here * centerd(other, keep)).sum().item() / math.sqrt(here.numel())
        assert abs(score) < 4.5, name


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_every_pair_of_features_and_of_tokens_is_independent(keep: float) -> None:
    draws = centerd(masks([5], [9], 4, torch.arange(30_000), 256, keep), keep)[0]
    for name, side in (("features", draws), ("tokens", draws.reshape(-1, 100).T.reshape(100, -1).T)):
        scores = (side.T @ side / math.sqrt(len(side))).fill_diagonal_(0)
        pairs = scores.shape[0] * (scores.shape[0] - 1) / 2
        upper = scores[tuple(torch.triu_indices(*scores.shape, 1))]
        assert upper.abs().max() < math.sqrt(2 * math.log(pairs)) + 2, name
        assert abs(upper.std().item() - 1) < 5 / math.sqrt(2 * pairs), name


def test_counts_spread_as_binomial_ones_do() -> None:
    """A hash that is too regular passes tests of the mean, and fails here."""
    keep = 0.8
    kept = (masks([3], [1], 2, torch.arange(4000), 1000, keep)[0] > 0).double()
    for axis, draws in ((0, 4000), (1, 1000)):
        counts = kept.sum(axis)
        ratio = counts.var().item() / (draws * keep * (1 - keep))
        assert abs(ratio - 1) < 5 * math.sqrt(2 / len(counts))


def test_words_of_eight_neighboring_bits_are_uniform() -> None:
    """Chi-square over the 256 patterns of eight features, of eight tokens, and of eight steps."""
    weights = 2 ** torch.arange(8)
    by_feature = masks([3], [1], 2, torch.arange(8000), 256)[0].reshape(-1, 8)
    by_token = masks([3], [1], 2, torch.arange(8000), 256)[0].T.reshape(-1, 8)
    by_step = torch.stack([masks([3], [k], 2, torch.arange(1000), 256)[0].flatten() for k in range(8)], 1)
    for name, bits in (("features", by_feature), ("tokens", by_token), ("steps", by_step)):
        counts = torch.bincount(((bits > 0) * weights).sum(1), minlength=256).double()
        expected = counts.sum() / 256
        chi_square = ((counts - expected) ** 2 / expected).sum().item()
        assert abs(chi_square - 255) < 5 * math.sqrt(2 * 255), name


def unchecked(module: ModuleType) -> Any:
    """The module without jaxtyping's checks, which only tests run and which cannot be traced."""
    assert module.__file__ is not None
    spec = importlib.util.spec_from_file_location(
        "unchecked_" + module.__name__.rpartition(".")[2], module.__file__
    )
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def test_it_is_traced_whole_and_once_for_all_steps_and_layers() -> None:
    """One graph serves every seed, step and layer: numbers that vary are tensors."""
    graphs: list[torch.fx.GraphModule] = []

    def keep_graph(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(
        unchecked(dropout).dropout_mask, backend=keep_graph, fullgraph=True, dynamic=False
    )
    keep, tokens = torch.full((1, 1, 1), 0.9), torch.arange(6)[None]
    for seed, step, layer in ((1, 2, 3), (4, 5, 6), (7, 8, 9)):
        keys = trial_keys(torch.tensor([seed]), torch.tensor([step]))
        found = compiled(keys, torch.tensor(layer), tokens, 10, keep, torch.float32)
        assert torch.equal(found, masks([seed], [step], layer, tokens[0], 10, 0.9))
    assert len(graphs) == 1


@pytest.mark.slow
def test_compiled_code_drops_the_same() -> None:
    """Inductor of torch 2.13 computes an integer addcmul in floating point: code here must do without."""
    compiled = torch.compile(unchecked(dropout).dropout_mask, fullgraph=True, dynamic=False)
    keep, tokens = torch.tensor([0.9, 0.5, 1.0]).reshape(-1, 1, 1), torch.arange(70).expand(3, -1)
    keys = trial_keys(torch.tensor([1, 2, 2**63 - 1]), torch.tensor([3, 4, 5]))
    for features in (64, 77):
        found = compiled(keys, torch.tensor(5), tokens, features, keep, torch.float32)
        assert torch.equal(found, dropout_mask(keys, torch.tensor(5), tokens, features, keep, torch.float32))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_drops_the_same() -> None:
    arguments = (
        trial_keys(torch.tensor([1, 2**62]), torch.tensor([3, 4])),
        torch.tensor(5),
        torch.arange(70).expand(2, -1),
    )
    keep = torch.tensor([0.9, 0.5]).reshape(-1, 1, 1)
    on_gpu = dropout_mask(*(each.cuda() for each in arguments), 77, keep.cuda(), torch.float32)
    assert torch.equal(on_gpu.cpu(), dropout_mask(*arguments, 77, keep, torch.float32))
