from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from summarizer.ops import elementwise, native
from summarizer.ops.activations import TanhGELU, gelu_tanh_, silu_mul, silu_mul_, supports

EVERY = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
"""Every number that bf16 has."""
NORMAL = EVERY[EVERY.isfinite() & (EVERY.abs() >= torch.finfo(torch.bfloat16).tiny)]


def with_gradient(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    y = function(x)
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


def by_sigmoid(x: Tensor) -> Tensor:
    """What the tanh form is, without its 1 - 1: in double too that leaves noise of x below -5."""
    return x * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))


in_c = pytest.mark.skipif(
    not native.available(elementwise.SOURCE), reason="the kernels want Linux, AVX-512 and a compiler"
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


needs_kernel = pytest.mark.skipif(not supports(EVERY), reason="needs a processor that knows bf16")


@needs_kernel
def test_it_and_its_gradient_are_right_for_every_number_of_bf16() -> None:
    x = NORMAL.double().clamp(-8192, 8192)  # whose cube is a number, and beyond which nothing happens
    grad = torch.randn(len(x), generator=torch.Generator().manual_seed(0)).bfloat16()
    right, right_grad = with_gradient(by_sigmoid, x, grad.double())
    y, grad_x = with_gradient(TanhGELU(), x.bfloat16(), grad)
    assert y.dtype == grad_x.dtype == torch.bfloat16
    # Half a step of bf16, and a little for the exponential.
    assert ((y.double() - right).abs() <= 0.00392 * right.abs() + 1e-37).all()
    assert ((grad_x.double() - right_grad).abs() <= 0.00392 * right_grad.abs() + 1e-6).all()


@needs_kernel
@pytest.mark.parametrize("x", [torch.inf, 3e38, torch.nan, 0.0, -3e38])
def test_at_the_ends_it_is_torch_s(x: float) -> None:
    given = torch.tensor([x], dtype=torch.bfloat16)
    torch.testing.assert_close(TanhGELU()(given), F.gelu(given, approximate="tanh"), equal_nan=True)


@needs_kernel
@pytest.mark.parametrize("count", [0, 1, 15, 17, 4096, 4097, 10_001])
def test_every_number_is_taken_once(count: int) -> None:
    x = torch.linspace(-4, 4, count).bfloat16()
    ours, theirs = (
        with_gradient(function, x, torch.ones_like(x))
        for function in (TanhGELU(), lambda x: F.gelu(x, approximate="tanh"))
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=8e-3, atol=1e-2)
        assert len(mine) == count


@needs_kernel
def test_tensors_may_have_gaps() -> None:
    x, grad = (torch.randn(5, 40, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(2))
    found = with_gradient(TanhGELU(), x.t(), grad.t())
    dense = with_gradient(TanhGELU(), x, grad)
    assert all(torch.equal(one, another.t()) for one, another in zip(found, dense, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_without_the_kernel_it_is_torch_s(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda source: None)
    x = torch.linspace(-4, 4, 50).to(dtype)
    assert torch.equal(TanhGELU()(x), F.gelu(x, approximate="tanh"))
    assert isinstance(TanhGELU(), torch.nn.GELU)


@in_c
@pytest.mark.parametrize("count", [1, 5, 16, 31, 96, 4096])
def test_activations_of_decoded_rows_are_torch_s(count: int) -> None:
    x, times = 6 * drawn(2, count), drawn(2, count, seed=1)
    gelu = F.gelu(x.double(), approximate="tanh")
    silu = F.silu(x.double()) * times
    assert torch.allclose(gelu_tanh_(x.clone()).double(), gelu, rtol=1e-6, atol=1e-6)
    assert torch.allclose(silu_mul_(x.clone(), times).double(), silu, rtol=1e-6, atol=1e-6)


@in_c
def test_activations_of_the_largest_and_of_no_numbers() -> None:
    x = torch.tensor([[-torch.inf, -1e30, -200.0, -88.0, 0.0, 88.0, 1e30, torch.inf, torch.nan]])
    ones = torch.ones_like(x)
    for got, right in (
        (gelu_tanh_(x.clone()), F.gelu(x, approximate="tanh")),
        (silu_mul_(x.clone(), ones), F.silu(x)),
    ):
        finite = x.isfinite()
        assert torch.allclose(got[finite], right[finite], rtol=1e-6, atol=1e-6)
        assert got[0, -2] == torch.inf
        assert got[0, -1].isnan()


@needs_kernel
def test_what_a_plan_is_told_of_it_is_so() -> None:
    x = torch.randn(3, 5).bfloat16()
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.summarizer.gelu.default, (x,), test_utils=checks)
    torch.library.opcheck(torch.ops.summarizer.gelu_backward.default, (x, x), test_utils=checks)
    torch.library.opcheck(torch.ops.summarizer.silu_mul.default, (x, x), test_utils=checks)
    torch.library.opcheck(torch.ops.summarizer.silu_mul_backward.default, (x, x, x), test_utils=checks)


# --- SiLU times a gate --------------------------------------------------------------------------------------------


def of_both(gate: Tensor, up: Tensor, grad: Tensor, ours: bool = True) -> tuple[Tensor, ...]:
    """The product and the gradients of both."""
    gate, up = gate.detach().requires_grad_(), up.detach().requires_grad_()
    y = silu_mul(gate, up) if ours else F.silu(gate) * up
    return y.detach(), *torch.autograd.grad(y, (gate, up), grad)


@needs_kernel
def test_the_gated_product_and_its_gradients_are_right_for_every_number_of_bf16() -> None:
    gate = NORMAL[NORMAL.abs() < 1e30]
    up, grad = (drawn(len(gate), seed=i).bfloat16() for i in (1, 2))
    found = of_both(gate, up, grad)
    right = of_both(gate.double(), up.double(), grad.double(), ours=False)
    for mine, exact in zip(found, right, strict=True):
        assert mine.dtype == torch.bfloat16
        assert ((mine.double() - exact).abs() <= 0.00392 * exact.abs() + 1e-6).all()


@needs_kernel
@pytest.mark.parametrize("gate", [torch.inf, 3e38, torch.nan, 0.0, -200.0, -3e38])
def test_the_gated_product_at_the_ends_is_torch_s(gate: float) -> None:
    given, one = torch.tensor([gate]).bfloat16(), torch.ones(1).bfloat16()
    for mine, theirs in zip(of_both(given, one, one), of_both(given, one, one, ours=False), strict=True):
        if gate != torch.inf or mine.isfinite():  # whose slope torch has as inf - inf
            torch.testing.assert_close(mine, theirs, equal_nan=True, atol=1e-6, rtol=0)


@needs_kernel
@pytest.mark.parametrize("shape", [(0,), (1,), (17,), (4097,), (10_001,), (5, 40)])
def test_every_number_of_a_gated_product_is_taken_once(shape: tuple[int, ...]) -> None:
    gate, up, grad = (drawn(*shape, seed=i).bfloat16() for i in range(3))
    found = of_both(gate.mT, up.mT, grad.mT) if len(shape) == 2 else of_both(gate, up, grad)
    right = of_both(gate, up, grad, ours=False)
    for mine, theirs in zip(found, right, strict=True):
        theirs = theirs.mT if len(shape) == 2 else theirs
        torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=1e-2)


@needs_kernel
def test_a_gated_product_keeps_nothing_that_was_not_there_before() -> None:
    gate, up = (drawn(64, 100, seed=i).bfloat16().requires_grad_() for i in range(2))
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.data_ptr()), x)[1], lambda x: x):
        silu_mul(gate, up)
    assert set(kept) == {gate.data_ptr(), up.data_ptr()}
