from __future__ import annotations

import pytest
import torch
from torch import Tensor

from summarizer.ops import native
from summarizer.ops.rotary import RotaryTable, rotate, supports

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


def turned(x: Tensor, angles: Tensor, *, interleaved: bool) -> Tensor:
    """The two numbers of a pair as a complex one, times e^(i angle); x is (rows, heads, d)."""
    front, rest = x.split((2 * angles.shape[-1], x.shape[-1] - 2 * angles.shape[-1]), dim=-1)
    pairs = front.unflatten(-1, (-1, 2)).unbind(-1) if interleaved else front.chunk(2, dim=-1)
    product = torch.complex(*pairs) * torch.polar(torch.ones_like(angles), angles)[:, None]
    numbers = (product.real, product.imag)
    both = torch.stack(numbers, dim=-1).flatten(-2) if interleaved else torch.cat(numbers, dim=-1)
    return torch.cat((both, rest), dim=-1)


def table_of(angles: Tensor, *, interleaved: bool) -> RotaryTable:
    return RotaryTable(angles.cos().float(), angles.sin().float(), interleaved)


@pytest.mark.parametrize("interleaved", [True, False], ids=["as GPT-J", "as Llama"])
@pytest.mark.parametrize("d", [16, 24])
def test_pairs_turn_by_their_angles(interleaved: bool, d: int) -> None:
    x, angles = random(7, 3, d, seed=0), random(7, 8, seed=1).double()
    found = rotate(x, table_of(angles, interleaved=interleaved))
    right = turned(x.double(), angles, interleaved=interleaved)
    torch.testing.assert_close(found.double(), right, rtol=0, atol=1e-6)
    assert torch.equal(found[..., 16:], x[..., 16:])


@needs_kernel
@pytest.mark.parametrize("interleaved", [True, False], ids=["as GPT-J", "as Llama"])
@pytest.mark.parametrize(
    ("rows", "heads", "d", "turning"),
    [
        (1, 1, 2, 2),
        (7, 5, 20, 20),
        (3, 2, 64, 64),
        (0, 2, 64, 64),
        (70, 9, 128, 128),
        (9, 3, 256, 64),
        (9, 3, 40, 2),
    ],
)
def test_it_and_its_gradient_are_the_nearest_in_bf16(
    rows: int, heads: int, d: int, turning: int, interleaved: bool
) -> None:
    x, grad = random(rows, heads, d, seed=1).bfloat16(), random(rows, heads, d, seed=2).bfloat16()
    angles = random(rows, turning // 2, seed=3)
    table = table_of(angles, interleaved=interleaved)
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    right_ones = with_gradient(turned(exact, angles.double(), interleaved=interleaved), exact, grad.double())
    found_ones = with_gradient(rotate(ours, table), ours, grad)
    for found, its in zip(found_ones, right_ones, strict=True):
        assert_rounded(found, its)
    assert torch.equal(found_ones[0][..., turning:], x[..., turning:])


@needs_kernel
@pytest.mark.parametrize("interleaved", [True, False])
def test_without_the_kernel_they_are_the_same_numbers(
    interleaved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, table = random(18, 3, 64, seed=1).bfloat16(), table_of(random(18, 10, seed=3), interleaved=interleaved)
    found = rotate(x, table)
    monkeypatch.setattr(native, "library", lambda source: None)
    torch.testing.assert_close(found, rotate(x, table), rtol=2 * HALF_A_UNIT, atol=1e-6)


@needs_kernel
def test_tensors_may_have_gaps() -> None:
    x, cos, sin = random(10, 3, 32, seed=1).bfloat16(), random(10, 16, seed=2), random(10, 16, seed=3)
    gaps = [part.repeat_interleave(2, dim=-1)[..., ::2] for part in (x, cos, sin)]
    assert not any(part.is_contiguous() for part in gaps)
    assert torch.equal(
        rotate(gaps[0], RotaryTable(gaps[1], gaps[2], False)), rotate(x, RotaryTable(cos, sin, False))
    )


@needs_kernel
def test_a_token_that_is_not_finite_stays_alone() -> None:
    x, table = random(4, 2, 32, seed=1).bfloat16(), table_of(random(4, 16, seed=2), interleaved=False)
    right = rotate(x, table)
    x[2, 1, 3] = torch.nan
    found = rotate(x, table)
    assert torch.isnan(found).nonzero().tolist() == [[2, 1, 3], [2, 1, 19]]
    assert torch.equal(found[~torch.isnan(found)], right[~torch.isnan(found)])


@needs_kernel
def test_what_a_plan_is_told_of_it_is_so() -> None:
    x, cos, sin = random(10, 3, 32, seed=1).bfloat16(), random(10, 16, seed=2), random(10, 16, seed=3)
    torch.library.opcheck(
        torch.ops.summarizer.rotate.default,
        (x, cos, sin, False, False),
        test_utils=("test_schema", "test_faketensor"),
    )
