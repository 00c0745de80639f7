"""Products of a few rows on weights as checkpoints have them, in C: against fp64, and torch's own."""

from __future__ import annotations

import pytest
import torch
from stored_products import layer, pairs_of, product, rows_of, wanted

from summarizer.ops import native
from summarizer.ops.decode_gemm import DENSE, dense_gemm, stored_weights_in_place

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
in_c = pytest.mark.skipif(
    not native.available(DENSE), reason="the kernel wants Linux, AVX-512 and a C compiler"
)


@in_c
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d_in", [1, 15, 17, 31, 33, 64, 100, 2080, 8201, 16384])
def test_rows_of_any_length_are_right_in_fp32(d_in: int, dtype: torch.dtype) -> None:
    linear = layer("none", d_in, 11, dtype=dtype)
    for rows in (1, 2, 3, 4, 7):
        x, pairs = rows_of(rows, d_in), pairs_of(rows, 3, d_in, 11)
        right = wanted(linear, x, pairs)
        assert (product(linear, x, pairs) - right).norm() < 1e-6 * right.norm()


@in_c
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_weight_meets_its_own_x(dtype: torch.dtype) -> None:
    linear = layer("none", 70, 5, dtype=dtype)
    linear.bias = torch.zeros(5)
    got = torch.cat([product(linear, rows) for rows in torch.eye(70).split(10)])
    assert torch.equal(got.T, linear.weight.dense(torch.float32))


@in_c
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_numbers_of_two_bytes_are_read_as_torch_reads_them(dtype: torch.dtype) -> None:
    numbers = torch.arange(1 << 16).to(torch.uint16).view(dtype)
    numbers = numbers[numbers.isfinite()]
    got = dense_gemm(torch.ones(1, 1), numbers[:, None])
    assert torch.equal(got[0], numbers.float())
    assert len(numbers) > 60_000


@in_c
def test_a_tensor_of_a_file_may_begin_anywhere() -> None:
    linear = layer("none", 64, 9, dtype=torch.bfloat16)
    weight, x = linear.weight.parts["weight"], rows_of(2, 64)
    askew = torch.empty(weight.numel() + 1, dtype=torch.bfloat16)[1:].reshape(weight.shape).copy_(weight)
    assert torch.equal(dense_gemm(x, askew), dense_gemm(x, weight))


@torch.no_grad()
def test_weights_of_another_type_are_torch_s() -> None:
    linear, x = layer("none", 64, 9, dtype=torch.float64), rows_of(2, 64)
    with stored_weights_in_place():
        assert linear.weight.decode_gemm(x) is None
        torch.testing.assert_close(linear(x), wanted(linear, x, None).float())
