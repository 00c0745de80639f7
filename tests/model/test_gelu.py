"""GELU in C, against torch's in fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from summarizer.model.kernels import gelu
from summarizer.model.kernels.few_rows import few_rows_in_place
from summarizer.model.kernels.gelu import TanhGELU

in_c = pytest.mark.skipif(
    not gelu.is_at_hand(), reason="the kernel wants Linux, AVX-512 and a C compiler; torch's serves here"
)


@in_c
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 2.0**-8)])
@pytest.mark.parametrize("shape", [(1,), (3, 33), (2, 100_001)])
@torch.no_grad()
def test_it_is_torch_s(dtype: torch.dtype, bound: float, shape: tuple[int, ...]) -> None:
    x = (4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    with few_rows_in_place():
        got = TanhGELU()(x)
    assert got.dtype == dtype
    exact = F.gelu(x.double(), approximate="tanh")
    # Below it, 1 + tanh has lost its digits in torch too.
    torch.testing.assert_close(got.double(), exact, rtol=bound, atol=1e-6)


@in_c
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_ends_of_the_scale(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 1e-30, 30.0, 1e30, -30.0, -1e4, torch.inf, torch.nan], dtype=dtype)
    with few_rows_in_place():
        got = TanhGELU()(x)
    torch.testing.assert_close(got[:5], F.gelu(x[:5], approximate="tanh"))
    assert abs(float(got[5])) < 1e-30
    assert float(got[6]) == torch.inf
    assert bool(got[7].isnan())


@in_c
def test_elsewhere_it_is_torch_s_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training's, for its gradient, and evaluating's, which is to be what trains."""
    monkeypatch.setattr(gelu, "_in_c", lambda x: pytest.fail("it has no backward"))
    x = torch.randn(40, requires_grad=True)
    with few_rows_in_place():
        TanhGELU()(x).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        assert torch.equal(TanhGELU()(x), F.gelu(x, approximate="tanh"))
        with few_rows_in_place():
            TanhGELU()(x.half())
            monkeypatch.setattr(gelu, "is_at_hand", lambda: False)
            assert torch.equal(TanhGELU()(x), F.gelu(x, approximate="tanh"))
