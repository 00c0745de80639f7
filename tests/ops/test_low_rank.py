from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from summarizer.ops import native
from summarizer.ops.low_rank import MOST_DIMS, SOURCE, add_widened_, narrowed, row_sums, supports

SHAPES = [
    (3, 33, 130, 4),
    (1, 1, 1, 1),
    (1, 5, 16, 2),
    (2, 7, 70, 3),
    (3, 33, 130, 5),
    (2, 64, 257, 16),
    (2, 9, 40, 17),
    (2, 0, 8, 2),
]


@pytest.fixture(params=[True, False], ids=["in C", "by torch"])
def in_c(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(native, "library", lambda source: None)
    return bool(request.param)


def given(n: int, m: int, d: int, r: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A wide tensor, a narrow one, the first rows of a stack of pairs, and scales."""
    generator = torch.Generator().manual_seed(0)
    x, own = torch.randn(n, m, d, generator=generator), torch.randn(n, m, r, generator=generator)
    pair = torch.randn(n, r + 2, d, generator=generator)[:, :r]
    return x.to(dtype), own, pair, torch.rand(n, 1, 1, generator=generator) + 0.5


def close(got: Tensor, right: Tensor, of: Tensor) -> None:
    error = (got.double() - right).abs().max().item() if right.numel() else 0.0
    scale = right.abs().max().item() if right.numel() else 0.0
    assert error <= scale * (2**-6 if of.dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_they_are_the_products_in_fp64(
    dtype: torch.dtype, shape: tuple[int, int, int, int], in_c: bool
) -> None:
    x, own, pair, scale = given(*shape, dtype)
    close(narrowed(x, pair, scale), x.double() @ pair.double().mT * scale.double(), x)
    close(row_sums(own, x), own.double().mT @ x.double(), x)
    y = x.clone()
    add_widened_(y, own, pair)
    close(y, x.double() + own.double() @ pair.double(), x)


@pytest.mark.skipif(not native.available(SOURCE), reason="no kernel is compiled here")
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernels_round_to_bf16_once(shape: tuple[int, int, int, int]) -> None:
    x, own, pair, scale = given(*shape, torch.bfloat16)
    if not supports(x, shape[3]):
        assert shape[3] > MOST_DIMS[torch.bfloat16]
        return
    wide, rounded = x.float(), x.clone()
    assert torch.equal(narrowed(x, pair, scale), narrowed(wide, pair, scale))
    assert torch.equal(row_sums(own, x), row_sums(own, wide))
    add_widened_(rounded, own, pair)
    add_widened_(wide, own, pair)
    assert torch.equal(rounded, wide.bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_trial_is_multiplied_alike_alone_and_beside_others(dtype: torch.dtype, in_c: bool) -> None:
    x, own, pair, scale = given(3, 21, 100, 5, dtype)
    y = x.clone()
    add_widened_(y, own, pair)
    for trial in range(3):
        alone = slice(trial, trial + 1)
        single = x[alone].clone()
        add_widened_(single, own[alone], pair[alone])
        assert torch.equal(y[alone], single)
        assert torch.equal(narrowed(x, pair, scale)[alone], narrowed(x[alone], pair[alone], scale[alone]))
        assert torch.equal(row_sums(own, x)[alone], row_sums(own[alone], x[alone]))


def test_what_has_gaps_is_read_right(in_c: bool) -> None:
    x, own, pair, scale = given(2, 6, 40, 3, torch.float32)
    gaps = torch.zeros(2, 6, 80)
    gaps[..., ::2] = x
    apart = gaps[..., ::2]
    close(narrowed(apart, pair.mT.contiguous().mT, scale), x.double() @ pair.double().mT * scale.double(), x)
    close(row_sums(own.mT.contiguous().mT, apart), own.double().mT @ x.double(), x)
    add_widened_(apart, own, pair)
    close(apart, x.double() + own.double() @ pair.double(), x)
    assert not gaps[..., 1::2].any()


def test_they_are_planned_on_fake_tensors_and_their_operations_are_counted() -> None:
    with FakeTensorMode():
        x, own, pair, scale = given(2, 6, 40, 3, torch.float32)
        assert narrowed(x, pair, scale).shape == (2, 6, 3)
        assert row_sums(own, x).shape == (2, 3, 40)
        add_widened_(x, own, pair)
    x, own, pair, scale = given(2, 6, 40, 3, torch.float32)
    with FlopCounterMode(display=False) as counter:
        narrowed(x, pair, scale)
        row_sums(own, x)
        add_widened_(x, own, pair)
    assert counter.get_total_flops() == 3 * 2 * 2 * 6 * 40 * 3
