from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from summarizer.ops import native
from summarizer.ops.low_rank import (
    FEW_DIMS,
    MOST_DIMS,
    SOURCE,
    add_widened_,
    dims_in_c,
    equal_dims,
    narrowed,
    row_sums,
)

SHAPES: list[tuple[int, int, tuple[int, ...]]] = [
    (33, 130, (4, 4, 4)),
    (1, 1, (1,)),
    (5, 16, (2,)),
    (7, 70, (3, 3)),
    (33, 130, (5, 5, 5)),
    (64, 257, (16, 16)),
    (9, 40, (17, 17)),
    (33, 130, (2, 17, 4, 0, 1, 8)),
    (70, 64, (0, 3)),
    (20, 64, (17, 2, 40, 40)),
    (0, 8, (2, 2)),
    (5, 8, (0,)),
]

compiled = pytest.mark.skipif(not native.available(SOURCE), reason="no kernel is compiled here")


@pytest.fixture(params=[True, False], ids=["in C", "by torch"])
def in_c(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(native, "library", lambda source: None)
    return bool(request.param)


def given(m: int, d: int, dims: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A wide tensor, a stack of pairs with more rows than any trial has dims, and scales."""
    generator, n = torch.Generator().manual_seed(0), len(dims)
    x, pair = torch.randn(n, m, d, generator=generator), torch.randn(n, max(dims) + 2, d, generator=generator)
    return x.to(dtype), pair, torch.rand(n, 1, 1, generator=generator) + 0.5


def by_trial(own: list[Tensor], x: Tensor, dims: tuple[int, ...]) -> list[Tensor]:
    """What `narrowed` returns, of each trial by itself."""
    in_c, m = dims_in_c(x, dims), x.shape[1]
    parts = iter(own)
    of_kernel = (
        iter(next(parts).split([m * r for r in in_c])) if any(in_c) else iter([x.new_zeros(0)] * len(dims))
    )
    by_torch = [0 if kernel else r for r, kernel in zip(dims, in_c, strict=True)]
    of_torch = {
        run.start + i: one
        for (run, _), part in zip(equal_dims(by_torch), parts, strict=True)
        for i, one in enumerate(part)
    }
    return [
        of_torch[trial] if trial in of_torch else kernel.reshape(m, r)
        for trial, (r, kernel) in enumerate(zip(dims, of_kernel, strict=True))
    ]


def close(got: Tensor, right: Tensor, of: Tensor) -> None:
    error = (got.double() - right).abs().max().item() if right.numel() else 0.0
    scale = right.abs().max().item() if right.numel() else 0.0
    assert error <= scale * (2**-6 if of.dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_they_are_the_products_in_fp64(
    dtype: torch.dtype, shape: tuple[int, int, tuple[int, ...]], in_c: bool
) -> None:
    m, d, dims = shape
    x, pair, scale = given(m, d, dims, dtype)
    own = narrowed(x, pair, scale, dims)
    sums = row_sums(own, x, pair.shape[1], dims)
    y = x.clone()
    add_widened_(y, own, pair, dims)
    for trial, (r, narrow) in enumerate(zip(dims, by_trial(own, x, dims), strict=True)):
        wide, first = x[trial].double(), pair[trial, :r].double()
        close(narrow, wide @ first.mT * scale[trial].double(), x)
        close(sums[trial, :r], narrow.double().mT @ wide, x)
        assert not sums[trial, r:].any()
        close(y[trial], wide + narrow.double() @ first, x)


@compiled
@pytest.mark.parametrize("shape", SHAPES)
def test_pairs_of_few_dims_are_multiplied_in_fp32_and_rounded_once(
    shape: tuple[int, int, tuple[int, ...]],
) -> None:
    m, d, every = shape
    dims = tuple(r if r <= FEW_DIMS else 0 for r in every)
    x, pair, scale = given(m, d, dims, torch.bfloat16)
    wide, rounded = x.float(), x.clone()
    own, of_wide = narrowed(x, pair, scale, dims), narrowed(wide, pair, scale, dims)
    assert all(map(torch.equal, own, of_wide))
    assert torch.equal(row_sums(own, x, 9, dims), row_sums(own, wide, 9, dims))
    add_widened_(rounded, own, pair, dims)
    add_widened_(wide, own, pair, dims)
    assert torch.equal(rounded, wide.bfloat16())


@compiled
@pytest.mark.parametrize("m", [1, 2, 63, 64, 65, 130])
@pytest.mark.parametrize("d", [1, 16, 31, 33, 70, 256])
def test_pairs_of_more_dims_are_rounded_to_bf16_and_summed_in_fp32(m: int, d: int) -> None:
    dims = (5, 2, 8, 9, 12, 13, 16, 7)
    assert max(dims) == MOST_DIMS[torch.bfloat16]
    x, pair, scale = given(m, d, dims, torch.bfloat16)
    own, y = narrowed(x, pair, scale, dims), x.clone()
    sums = row_sums(own, x, 18, dims)
    add_widened_(y, own, pair, dims)
    for trial, (r, narrow) in enumerate(zip(dims, by_trial(own, x, dims), strict=True)):
        if r <= FEW_DIMS:
            continue
        wide, of_pair = x[trial].double(), pair[trial, :r].bfloat16().double()
        of_own = narrow.bfloat16().double()
        torch.testing.assert_close(
            narrow.double(), wide @ of_pair.mT * scale[trial].double(), rtol=0, atol=3e-4
        )
        torch.testing.assert_close(sums[trial, :r].double(), of_own.mT @ wide, rtol=0, atol=3e-3)
        assert not sums[trial, r:].any()
        right = wide + of_own @ of_pair
        assert ((y[trial].double() - right).abs() <= right.abs() * 2**-8 + 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_trial_is_multiplied_alike_alone_and_beside_others(dtype: torch.dtype, in_c: bool) -> None:
    dims = (5, 2, 40, 4)
    x, pair, scale = given(21, 100, dims, dtype)
    own, y = narrowed(x, pair, scale, dims), x.clone()
    sums = row_sums(own, x, 42, dims)
    add_widened_(y, own, pair, dims)
    for trial, narrow in enumerate(by_trial(own, x, dims)):
        alone, of_alone = slice(trial, trial + 1), dims[trial : trial + 1]
        its_own, single = narrowed(x[alone], pair[alone], scale[alone], of_alone), x[alone].clone()
        add_widened_(single, its_own, pair[alone], of_alone)
        assert torch.equal(its_own[0].reshape(narrow.shape), narrow)
        assert torch.equal(y[alone], single)
        assert torch.equal(sums[alone], row_sums(its_own, x[alone], 42, of_alone))


def test_what_has_gaps_is_read_right(in_c: bool) -> None:
    dims = (3, 2)
    x, pair, scale = given(6, 40, dims, torch.float32)
    gaps = torch.zeros(2, 6, 80)
    gaps[..., ::2] = x
    apart = gaps[..., ::2]
    own = narrowed(x, pair, scale, dims)
    from_gaps = narrowed(apart, pair.mT.contiguous().mT, scale, dims)
    for got, right in zip(from_gaps, own, strict=True):
        close(got, right, x)
    close(row_sums(own, apart, 3, dims), row_sums(own, x, 3, dims), x)
    y = x.clone()
    add_widened_(y, own, pair, dims)
    add_widened_(apart, own, pair, dims)
    close(apart, y, x)
    assert not gaps[..., 1::2].any()


def test_they_are_planned_on_fake_tensors_and_their_operations_are_counted() -> None:
    dims = (3, 1)
    with FakeTensorMode():
        x, pair, scale = given(6, 40, dims, torch.float32)
        own = narrowed(x, pair, scale, dims)
        assert sum(part.numel() for part in own) == 6 * 4
        assert row_sums(own, x, 5, dims).shape == (2, 5, 40)
        add_widened_(x, own, pair, dims)
    x, pair, scale = given(6, 40, dims, torch.float32)
    with FlopCounterMode(display=False) as counter:
        own = narrowed(x, pair, scale, dims)
        row_sums(own, x, 5, dims)
        add_widened_(x, own, pair, dims)
    assert counter.get_total_flops() == 3 * 2 * 6 * 40 * 4
