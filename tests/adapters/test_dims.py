"""The product of trials of several dims beside one frozen layer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from stored_products import layer
from torch import Tensor

from summarizer.adapters.low_rank_product import Pair, low_rank_product
from summarizer.ops.low_rank import equal_dims

D_IN, D_OUT, TOKENS = 256, 320, 96


def trained(dims: Sequence[int], trials: Sequence[int]) -> list[list[Tensor]]:
    """Output, gradients of the input and of the own rows of A and B, of some of the trials in one product."""
    linear, drawn = layer("int8", D_IN, D_OUT), torch.Generator().manual_seed(0)
    x = torch.randn(len(dims), TOKENS, D_IN, generator=drawn)
    a, b = torch.zeros(len(dims), max(dims), D_IN), torch.zeros(len(dims), max(dims), D_OUT)
    for trial, r in enumerate(dims):
        a[trial, :r] = torch.randn(r, D_IN, generator=drawn)
        b[trial, :r] = torch.randn(r, D_OUT, generator=drawn)
    grad = torch.randn(len(dims), TOKENS, D_OUT, generator=drawn)
    scale = 1 / torch.arange(1, len(dims) + 1).reshape(-1, 1, 1)
    own, widest = [dims[trial] for trial in trials], max(dims[trial] for trial in trials)
    leaves = [each.requires_grad_() for each in (x[trials], a[trials, :widest], b[trials, :widest])]
    y = low_rank_product(linear, leaves[0], None, [Pair(leaves[1], leaves[2], tuple(own))], scale[trials])
    y.backward(grad[trials])
    of_x, of_a, of_b = (leaf.grad for leaf in leaves)
    assert of_x is not None
    assert of_a is not None
    assert of_b is not None
    for i, r in enumerate(own):
        assert not of_a[i, r:].any(), "padding has no gradient"
        assert not of_b[i, r:].any(), "padding has no gradient"
    return [[y[i].detach(), of_x[i], of_a[i, :r], of_b[i, :r]] for i, r in enumerate(own)]


@pytest.mark.parametrize("dims", [(2, 4), (2, 8, 2), (3, 0, 1, 16)])
def test_a_trial_beside_wider_ones_has_its_bits_alone(dims: tuple[int, ...]) -> None:
    together = trained(dims, range(len(dims)))
    for trial in range(len(dims)):
        (alone,) = trained(dims, [trial])
        assert all(torch.equal(*pair) for pair in zip(together[trial], alone, strict=True)), trial


def test_neighbors_of_one_dim_share_a_product() -> None:
    assert list(equal_dims((2, 2, 0, 4, 2))) == [(slice(0, 2), 2), (slice(3, 4), 4), (slice(4, 5), 2)]
