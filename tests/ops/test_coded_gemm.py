"""Products of a few rows on bytes that a table decodes, in C: against the dense product in fp64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stored_products import layer, pairs_of, product, rows_of, wanted

from summarizer.ops import native
from summarizer.ops.decode_gemm import CODED
from summarizer.quantization import blockwise8, weight_format
from summarizer.quantization.fp8 import E4M3

FORMATS = ("blockwise8", "fp8")
BOUND = 1e-4
"""Of test_decode_gemm.py."""
STEP = 1 / 32639
"""Of the grid of x, and of that of the codes."""
in_c = pytest.mark.skipif(
    not native.available(CODED), reason="the kernel wants Linux, AVX-512 with VBMI and a C compiler"
)


@in_c
@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize(
    ("d_in", "d_out"),
    [
        (1, 5000),
        (63, 131),
        (65, 200),
        (100, 90),
        (576, 30),
        (4095, 5),
        (4096, 4),
        (4097, 5),
        (6000, 7),
        (16384, 3),
    ],
)
def test_blocks_of_weights_may_end_anywhere(format_name: str, d_in: int, d_out: int) -> None:
    """From thousands of rows in a block to several blocks in a row, each with an absmax far from the next one's."""
    linear = layer(format_name, d_in, d_out)
    weight = linear.weight.dense(torch.float32)
    sizes = torch.arange(weight.numel()).div(blockwise8.BLOCK, rounding_mode="floor").remainder(3)
    linear.weight.load(linear.weight.format.quantize(weight * 10.0 ** sizes.reshape(weight.shape)))
    for rows in (1, 2, 3, 4, 7):
        x, pairs = rows_of(rows, d_in), pairs_of(rows, 2, d_in, d_out)
        right = wanted(linear, x, pairs)
        assert (product(linear, x, pairs) - right).norm() < BOUND * right.norm()


@in_c
@pytest.mark.parametrize("format_name", FORMATS)
def test_each_byte_stands_for_its_number(format_name: str) -> None:
    """To half a step of the code's grid, each in its place."""
    linear, bytes_ = layer(format_name, 80, 64), torch.arange(80 * 64).remainder(256).to(torch.uint8)
    parts = dict(linear.weight.parts)
    largest = 448.0 if format_name == "fp8" else 1.0
    factor = "scale" if format_name == "fp8" else "absmax"
    parts[factor] = torch.ones_like(parts[factor])
    if format_name == "fp8":
        bytes_[(bytes_ & 127) == 127] = 0  # NaN
    parts["q"] = bytes_.reshape(64, 80).view(parts["q"].dtype)
    linear.weight.load(parts)
    linear.bias = torch.zeros(64)
    got = torch.cat([product(linear, rows) for rows in torch.eye(80).split(16)]).T
    dense = linear.weight.dense(torch.float32)
    assert dense.abs().max() == largest
    assert (got - dense).abs().max() <= 0.501 * STEP * largest
    assert len(bytes_.unique()) > 250


@in_c
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_sums_fit_their_32_bits(sign: float) -> None:
    d_in = 600_000  # a single block: whole, it would pass them
    linear = layer("fp8", d_in, 1)
    linear.weight.load({"q": torch.full((1, d_in), 448 * sign).to(E4M3), "scale": torch.ones(1, 1)})
    linear.bias = torch.zeros(1)
    assert torch.allclose(product(linear, torch.ones(1, d_in)), torch.tensor(448.0 * sign * d_in))


@in_c
@pytest.mark.parametrize("format_name", FORMATS)
def test_nothing_dense_is_made(format_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def dense(*given: Any) -> None:
        raise AssertionError("the whole weight was made dense")

    linear, x = layer(format_name, 256, 9), rows_of(3, 256)
    right = wanted(linear, x, None)
    kind = type(weight_format(format_name))
    for name in ("dequantize", "factors", "matmul"):
        monkeypatch.setattr(kind, name, dense)
    assert (product(linear, x) - right).norm() < BOUND * right.norm()
