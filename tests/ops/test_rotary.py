from __future__ import annotations

import pytest
import torch
from torch import Tensor

from summarizer.ops import native
from summarizer.ops.rotary import rotate, supports

pytestmark = pytest.mark.versions

needs_kernel = pytest.mark.skipif(
    not supports(torch.empty(1, dtype=torch.bfloat16), torch.empty(1)),
    reason="needs a processor with AVX-512 and bf16 and a C compiler",
)
HALF_A_UNIT = 2**-8
"""Of bf16, in the last place, by the power of two below a number."""


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_gradient(y: Tensor, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


def assert_rounded(found: Tensor, right: Tensor) -> None:
    """`found` is what bf16 has nearest to `right`, but for fp32's own rounding of a sum that cancels."""
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), right, rtol=HALF_A_UNIT, atol=1e-6)


def turned_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Llama's: number i of a head with number d / 2 + i; x is (rows, t, heads, d)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, :, None] + torch.cat((-second, first), dim=-1) * sin[:, :, None]


def turned_neighbors(x: Tensor, angles: Tensor) -> Tensor:
    """GPT-J's: pairs of neighbors as complex numbers, times e^(i angle)."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, :, None]).flatten(-2)


@needs_kernel
@pytest.mark.parametrize("table_rows", [1, 3], ids=["the rows share angles", "each row its own"])
@pytest.mark.parametrize(("t", "heads", "d"), [(1, 1, 2), (7, 5, 20), (3, 2, 64), (0, 2, 64), (70, 9, 128)])
def test_it_and_its_gradient_are_llama_s(t: int, heads: int, d: int, table_rows: int) -> None:
    x, grad = random(3, t, heads, d, seed=1).bfloat16(), random(3, t, heads, d, seed=2).bfloat16()
    # Not even the two halves of a table are alike, which the function does not ask for.
    cos, sin = random(table_rows, t, d, seed=3), random(table_rows, t, d, seed=4)
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    right_ones = with_gradient(turned_halves(exact, cos.double(), sin.double()), exact, grad.double())
    found_ones = with_gradient(rotate(ours, cos, sin, interleaved=False), ours, grad)
    for found, its in zip(found_ones, right_ones, strict=True):
        assert_rounded(found, its)


@needs_kernel
@pytest.mark.parametrize(("d", "turning"), [(16, 16), (64, 20), (256, 64), (40, 2)])
def test_it_and_its_gradient_are_gpt_j_s(d: int, turning: int) -> None:
    x, grad = random(2, 9, 3, d, seed=1).bfloat16(), random(2, 9, 3, d, seed=2).bfloat16()
    angles = random(2, 9, turning // 2, seed=3)
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    turned = turned_neighbors(exact[..., :turning], angles.double())
    right_ones = with_gradient(torch.cat((turned, exact[..., turning:]), -1), exact, grad.double())
    sin, cos = torch.cat((angles.sin(), angles.cos()), -1).chunk(2, dim=-1)
    found_ones = with_gradient(rotate(ours, cos, sin, interleaved=True), ours, grad)
    for found, its in zip(found_ones, right_ones, strict=True):
        assert_rounded(found, its)
    assert torch.equal(found_ones[0][..., turning:], x[..., turning:])


@needs_kernel
def test_without_the_kernel_gpt_j_s_are_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    x, angles = random(2, 9, 3, 64, seed=1).bfloat16(), random(2, 9, 10, seed=3)
    found = rotate(x, angles.cos(), angles.sin(), interleaved=True)
    monkeypatch.setattr(native, "library", lambda source: None)
    torch.testing.assert_close(
        found, rotate(x, angles.cos(), angles.sin(), interleaved=True), rtol=2 * HALF_A_UNIT, atol=1e-6
    )


@needs_kernel
def test_tensors_may_have_gaps() -> None:
    x, cos, sin = random(2, 5, 3, 32, seed=1).bfloat16(), random(2, 5, 32, seed=2), random(2, 5, 32, seed=3)
    gaps = [part.repeat_interleave(2, dim=-1)[..., ::2] for part in (x, cos, sin)]
    assert not any(part.is_contiguous() for part in gaps)
    assert torch.equal(rotate(*gaps, interleaved=False), rotate(x, cos, sin, interleaved=False))


@needs_kernel
def test_a_token_that_is_not_finite_stays_alone() -> None:
    x, cos, sin = random(1, 4, 2, 32, seed=1).bfloat16(), random(1, 4, 32, seed=2), random(1, 4, 32, seed=3)
    right = rotate(x, cos, sin, interleaved=False)
    x[0, 2, 1, 3] = torch.nan
    found = rotate(x, cos, sin, interleaved=False)
    assert torch.isnan(found).nonzero().tolist() == [[0, 2, 1, 3], [0, 2, 1, 19]]
    assert torch.equal(found[~torch.isnan(found)], right[~torch.isnan(found)])


@needs_kernel
def test_what_a_plan_is_told_of_it_is_so() -> None:
    x, cos, sin = random(2, 5, 3, 32, seed=1).bfloat16(), random(1, 5, 32, seed=2), random(1, 5, 32, seed=3)
    torch.library.opcheck(
        torch.ops.summarizer.rotate.default,
        (x, cos, sin, False, False),
        test_utils=("test_schema", "test_faketensor"),
    )
