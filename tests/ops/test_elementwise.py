from __future__ import annotations

import pytest
import torch

from summarizer.ops import native
from summarizer.ops.decode_gemm import stored_weights_in_place
from summarizer.ops.elementwise import (
    BF16_SOURCE,
    SOURCE,
    add,
    add_,
    column_dots,
    scale_columns_,
    scaled_columns,
    supports_scales,
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(3, 5), (2, 7, 64), (1, 1), (70, 321), (0, 4), (4, 0)])
@pytest.mark.parametrize("with_kernel", [True, False])
def test_it_is_torch_s_product_rounded_once(
    dtype: torch.dtype, shape: tuple[int, ...], with_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_kernel:
        monkeypatch.setattr(native, "library", lambda source: None)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype)
    factor = torch.rand(shape[-1], generator=generator) * 1e-3
    before, right = x.clone(), (x.double() * factor).float().to(dtype)
    assert torch.equal(scaled_columns(x, factor), right)
    assert torch.equal(x, before)
    assert torch.equal(scale_columns_(x, factor), right)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 3, 5), (2, 7, 64), (3, 70, 321), (2, 130, 257), (2, 0, 4)])
@pytest.mark.parametrize("with_kernel", [True, False])
def test_each_trial_has_its_own_factors_and_sums(
    dtype: torch.dtype, shape: tuple[int, int, int], with_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_kernel:
        monkeypatch.setattr(native, "library", lambda source: None)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    factor = torch.rand(shape[0], 1, shape[2], generator=generator)
    for trial in range(shape[0]):
        assert torch.equal(scaled_columns(x, factor)[trial], scaled_columns(x[trial], factor[trial, 0]))
    right = (x.double() * y.double()).sum(dim=1, keepdim=True)
    torch.testing.assert_close(
        column_dots(x, y).double(),
        right,
        rtol=2e-2 if dtype == torch.bfloat16 else 1e-4,
        atol=5e-2 if not with_kernel else 1e-3,
    )


def test_what_is_in_its_way_is_not_overwritten_wrongly() -> None:
    """Of a tensor with gaps, and of factors with gaps."""
    x = torch.randn(6, 40).bfloat16()
    factor = torch.rand(12)[::2]
    right = (x.t() * factor).to(torch.bfloat16)
    assert torch.equal(scaled_columns(x.t(), factor), right)
    assert torch.equal(scale_columns_(x.t(), factor), right)


def test_numbers_that_are_none_stay_so() -> None:
    x = torch.tensor([[torch.nan, torch.inf, -torch.inf, 3e38, 0.0]]).bfloat16()
    factor = torch.tensor([1.0, 2.0, 2.0, 10.0, -1.0])
    torch.testing.assert_close(scaled_columns(x, factor), (x * factor).bfloat16(), equal_nan=True)


def test_what_a_plan_is_told_of_it_is_so() -> None:
    given, checks = (torch.randn(3, 5).bfloat16(), torch.rand(5)), ("test_schema", "test_faketensor")
    if supports_scales(given[0]):
        torch.library.opcheck(torch.ops.summarizer.scaled_columns.default, given, test_utils=checks)
        torch.library.opcheck(torch.ops.summarizer.scale_columns_.default, given, test_utils=checks)
        both = (given[0][None], given[0][None])
        torch.library.opcheck(torch.ops.summarizer.column_dots.default, both, test_utils=checks)


@pytest.mark.skipif(not native.available(SOURCE), reason="the kernel wants Linux, AVX-512 and a compiler")
def test_sums_are_torch_s() -> None:
    for count in (1, 16, 31, 96, 4096):
        x, added = (torch.randn(2, count, generator=torch.Generator().manual_seed(i)) for i in range(2))
        right = x + added
        assert torch.equal(add_(x, added), right)
        assert torch.equal(x, right)


@pytest.mark.skipif(
    not native.available(BF16_SOURCE), reason="the kernel wants AVX-512 with bf16 and a compiler"
)
@pytest.mark.parametrize("shape", [(3, 5), (1, 4096), (70, 321), (0, 4)])
def test_a_prompt_s_residual_is_written_over(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, added = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator).bfloat16()
    right, before = x + added, x.clone()
    assert torch.equal(add(x, added), right)
    assert torch.equal(x, before), "where nothing is read, x stays"
    with stored_weights_in_place():
        assert torch.equal(add(x.requires_grad_(), added), right)
        x = x.detach()
        with torch.no_grad():
            if min(shape) > 1:
                assert torch.equal(add(x.t(), added.t()), right.t()), "with gaps"
                assert torch.equal(x, before)
            assert add(x, added).data_ptr() == x.data_ptr()
    assert torch.equal(x, right)
