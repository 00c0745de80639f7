from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from summarizer.ops.linear import linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [(1,), (40,), (2, 33), (0,)])
@pytest.mark.parametrize("transposed", [False, True], ids=["as it lies", "transposed"])
def test_it_is_the_product(dtype: torch.dtype, rows: tuple[int, ...], transposed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, matrix = (torch.randn(shape, generator=generator).to(dtype) for shape in ((*rows, 70), (50, 70)))
    given = matrix.t().contiguous().t() if transposed else matrix
    assert given.is_contiguous() != transposed
    y = linear(x, given)
    assert (y.shape, y.dtype) == ((*rows, 50), dtype)
    torch.testing.assert_close(
        y.double(),
        x.double() @ matrix.double().t(),
        rtol=2e-2 if dtype == torch.bfloat16 else 1e-4,
        atol=1e-1 if dtype == torch.bfloat16 else 1e-4,
    )


def test_parts_of_rows_and_gaps_between_them_are_read_right() -> None:
    x, matrix = torch.randn(9, 3, 80), torch.randn(64, 160)[:, ::2]
    torch.testing.assert_close(linear(x[:, 1], matrix), (x[:, 1].double() @ matrix.double().t()).float())


def test_what_it_gives_may_be_changed_in_place_behind_a_pass_of_one_s_own() -> None:
    class Pass(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return linear(x, torch.eye(4))

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0]

    x = torch.randn(2, 3, 4, requires_grad=True)
    y: Tensor = Pass.apply(x)  # type: ignore[no-untyped-call]
    y.add_(x)
    assert torch.equal(y, 2 * x)


def test_its_operations_are_counted() -> None:
    with FlopCounterMode(display=False) as counter:
        linear(torch.randn(2, 5, 7), torch.randn(3, 7))
    assert counter.get_total_flops() == 2 * 10 * 7 * 3
