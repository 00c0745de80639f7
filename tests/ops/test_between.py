"""Norms, activations and sums in C against torch's, at widths that fill no whole register too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from summarizer.ops import between

pytestmark = pytest.mark.skipif(
    not between.is_at_hand(), reason="the kernels want Linux, AVX-512 and a compiler"
)

WIDTHS = (1, 16, 31, 96, 4096)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("rows", [1, 3])
def test_layer_norm_is_torch_s(rows: int, d: int) -> None:
    x, weight, bias = 3 * drawn(rows, d) + 7, drawn(d, seed=1), drawn(d, seed=2)
    right = F.layer_norm(x.double(), (d,), weight.double(), bias.double(), eps=1e-5)
    assert (between.layer_norm(x, weight, bias, 1e-5) - right).abs().max() < 2e-5
    right = F.layer_norm(x.double(), (d,), weight.double(), eps=1e-2)
    assert (between.layer_norm(x, weight, None, 1e-2) - right).abs().max() < 2e-5


@pytest.mark.parametrize("d", WIDTHS)
def test_rms_norm_is_torch_s(d: int) -> None:
    x, weight = drawn(2, d) + 1, drawn(d, seed=1)
    right = F.rms_norm(x.double(), (d,), weight.double(), eps=1e-3)
    assert (between.rms_norm(x, weight, 1e-3) - right).abs().max() < 1e-5


@pytest.mark.parametrize("count", [*WIDTHS, 5])
def test_activations_are_torch_s(count: int) -> None:
    x, times = 6 * drawn(2, count), drawn(2, count, seed=1)
    gelu = F.gelu(x.double(), approximate="tanh")
    silu = F.silu(x.double()) * times
    assert torch.allclose(between.tanh_gelu_(x.clone()).double(), gelu, rtol=1e-6, atol=1e-6)
    assert torch.allclose(between.silu_times_(x.clone(), times).double(), silu, rtol=1e-6, atol=1e-6)


def test_activations_of_the_largest_and_of_no_numbers() -> None:
    x = torch.tensor([[-torch.inf, -1e30, -200.0, -88.0, 0.0, 88.0, 1e30, torch.inf, torch.nan]])
    ones = torch.ones_like(x)
    for got, right in (
        (between.tanh_gelu_(x.clone()), F.gelu(x, approximate="tanh")),
        (between.silu_times_(x.clone(), ones), F.silu(x)),
    ):
        finite = x.isfinite()
        assert torch.allclose(got[finite], right[finite], rtol=1e-6, atol=1e-6)
        assert got[0, -2] == torch.inf
        assert got[0, -1].isnan()


def test_a_row_that_is_not_finite_leaves_the_others_alone() -> None:
    x, weight = drawn(3, 40), torch.ones(40)
    right = between.layer_norm(x, weight, None, 1e-5)
    x[1, 7] = torch.nan
    got = between.layer_norm(x, weight, None, 1e-5)
    assert got[1].isnan().all()
    assert torch.equal(got[[0, 2]], right[[0, 2]])


def test_sums_are_torch_s() -> None:
    for count in WIDTHS:
        x, added = drawn(2, count), drawn(2, count, seed=1)
        right = x + added
        assert torch.equal(between.add_(x, added), right)
        assert torch.equal(x, right)
