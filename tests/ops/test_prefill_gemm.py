"""Products of many rows on stored int8 and nf4 weights, in C: against the dense product and a loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stored_products import layer, pairs_of, rows_of, wanted
from torch import Tensor

from summarizer.adapters.low_rank_product import Pair, low_rank_product
from summarizer.ops import native, prefill_gemm
from summarizer.ops.decode_gemm import DECODE_ROWS, Epilogue, LowRankPairs, stored_weights_in_place
from summarizer.ops.prefill_gemm import int8_activations
from summarizer.quantization.frozen import FrozenLinear

pytestmark = pytest.mark.skipif(
    not native.available(prefill_gemm.SOURCE),
    reason="the kernel wants Linux, AVX-512 with VNNI and a C compiler; torch's products serve here",
)
SIXTEEN_BITS = 1e-4
"""bf16 products would have 2e-3."""
ROUNDED_TO_BF16 = 4e-3


def product(
    linear: FrozenLinear, x: Tensor, apart: int | None = None, pairs: LowRankPairs | None = None
) -> Tensor:
    parts = linear.weight.parts
    return prefill_gemm.int8_gemm_in_c(x, parts["q"], parts["scale"], apart, Epilogue(linear.bias, pairs))


def relative_error(got: Tensor, exact: Tensor) -> float:
    assert got.shape == exact.shape
    return float((got.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, SIXTEEN_BITS), (torch.bfloat16, ROUNDED_TO_BF16)]
)
@pytest.mark.parametrize(
    ("count", "d_in", "d_out"), [(1, 64, 32), (12, 128, 96), (26, 100, 33), (50, 320, 7), (24, 4, 65)]
)
@pytest.mark.parametrize("trials", [0, 1, 2])
def test_with_16_bits_it_is_the_dense_product(
    dtype: torch.dtype, bound: float, count: int, d_in: int, d_out: int, trials: int
) -> None:
    linear = layer("int8", d_in, d_out)
    pairs = pairs_of(trials, 3, d_in, d_out) if trials else None
    x = rows_of(count * max(trials, 1), d_in).to(dtype)
    got = product(linear, x, pairs=pairs)
    assert got.dtype == dtype
    assert relative_error(got, wanted(linear, x, pairs)) < bound


@pytest.mark.parametrize("outlier", [1.0, 100.0, 1e6])
def test_whole_numbers_are_those_of_a_loop(outlier: float) -> None:
    """8 bits, and 16 of the same grid in the columns apart; an outlier beyond 16 bits makes the steps longer."""
    linear, x = layer("int8", 100, 40), rows_of(20, 100)
    x[::2, 50] *= outlier
    parts, apart = linear.weight.parts, x.abs().amax(dim=0).topk(4).indices
    got = prefill_gemm.int8_gemm_in_c(x, parts["q"], parts["scale"], len(apart))
    for row, of_row in zip(x, got, strict=True):
        rest = row.clone()
        rest[apart] = 0
        step = torch.maximum(rest.abs().max() / 127, row.abs().max() / 32639)
        whole = (row * (1 / step)).round().long()
        assert int((whole * (rest != 0)).abs().max()) <= 127
        exact = (whole @ parts["q"].long().T).double() * step.double() * parts["scale"].squeeze(1).double()
        torch.testing.assert_close(of_row.double(), exact, rtol=1e-6, atol=1e-6 * float(exact.abs().max()))


def in_8_bits(linear: FrozenLinear) -> tuple[Tensor, Tensor]:
    """nf4 weights on a grid of int8 for each row, and its steps; a row of zeros has 0."""
    dense = linear.weight.dense(torch.float32)
    scale = dense.abs().amax(dim=1, keepdim=True) / 127
    return (dense / scale).nan_to_num(0.0).round().to(torch.int8), scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("count", "d_in", "d_out"), [(32, 64, 33), (50, 576, 70), (33, 1536, 5)])
@pytest.mark.parametrize("trials", [0, 1])
def test_nf4_is_multiplied_in_8_bits(
    dtype: torch.dtype, count: int, d_in: int, d_out: int, trials: int
) -> None:
    """As the int8 product of the same weights in 8 bits, whose steps are the kernel's."""
    linear, x = layer("nf4", d_in, d_out), rows_of(count, d_in).to(dtype)
    parts = linear.weight.parts
    parts["absmax"].view(d_out, -1)[1] = 0
    pairs = pairs_of(trials, 3, d_in, d_out) if trials else None
    epilogue = Epilogue(linear.bias, pairs)
    with int8_activations():
        got = prefill_gemm.nf4_gemm(x, parts["q"], parts["absmax"], parts["code"], epilogue)
    assert got is not None
    assert got.dtype == dtype
    assert relative_error(got, wanted(linear, x, pairs)) < 0.02
    q, scale = in_8_bits(linear)
    alike = prefill_gemm.int8_gemm_in_c(x, q, scale, prefill_gemm.count_apart(x), epilogue)
    assert relative_error(got, alike.double()) < (1e-3 if dtype == torch.float32 else ROUNDED_TO_BF16)


def test_rows_of_nf4_are_of_whole_blocks() -> None:
    linear, x = layer("nf4", 96, 40), rows_of(40, 96)
    with torch.no_grad(), stored_weights_in_place(), int8_activations():
        assert linear.weight.prefill_gemm(x) is None
        assert relative_error(linear(x), wanted(linear, x, None)) < 1e-5


def test_sums_hold_in_the_widest_rows() -> None:
    d_in = prefill_gemm.MOST_COLUMNS
    q, scale = torch.full((2, d_in), 127, dtype=torch.int8), torch.ones(2, 1)
    q[1] = -127
    x = torch.ones(1, d_in)
    for apart in (None, 1):
        got = prefill_gemm.int8_gemm_in_c(x, q, scale, apart)
        torch.testing.assert_close(got, torch.tensor([[127.0, -127.0]]) * d_in)


def test_a_row_s_result_does_not_depend_on_the_others_nor_on_threads() -> None:
    linear, x = layer("int8", 256, 700), rows_of(40, 256)
    together = product(linear, x)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        again = product(linear, x)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together, again)
    for row in (0, 11, 12, 39):
        assert torch.equal(product(linear, x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_that_is_not_finite_is_told_and_leaves_the_others_alone(
    broken: float, dtype: torch.dtype
) -> None:
    linear, x = layer("int8", 64, 40), rows_of(14, 64).to(dtype)
    sound = product(linear, x)
    x[5, 63] = broken
    # An infinite number is the largest, and its column is apart; one that is none is in any column.
    for apart in (None, 1, 40):
        got = product(linear, x, apart)
        assert not got[5].isfinite().any()
        others = torch.arange(14) != 5
        assert got[others].isfinite().all()
        if apart is None:
            assert torch.equal(got[others], sound[others])


@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e30])
def test_zeros_and_extreme_rows(scale: float) -> None:
    linear, x = layer("int8", 64, 40), rows_of(14, 64) * scale
    got = product(linear, x)
    assert linear.bias is not None
    exact = wanted(linear, x, None)
    torch.testing.assert_close(got.double(), exact, rtol=1e-3, atol=1e-3 * float(exact.abs().max()))


def calls_of(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """How many columns were apart in each call of the kernel from now on."""
    calls: list[int | None] = []
    plain = prefill_gemm.int8_gemm_in_c

    def told(x: Tensor, q: Tensor, scale: Tensor, apart: int | None, *more: Any) -> Tensor:
        calls.append(apart)
        return plain(x, q, scale, apart, *more)

    monkeypatch.setattr(prefill_gemm, "int8_gemm_in_c", told)
    return calls


def test_layers_take_it_for_reading_prompts_and_never_else(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of(monkeypatch)
    linear, pairs, count = layer("int8", 64, 40), pairs_of(2, 3, 64, 40), 20
    x = rows_of(2 * count, 64)
    by_trial, ranks = x.reshape(2, count, 64), (3, 3)
    dense, dense_pairs = wanted(linear, x, None), wanted(linear, x, pairs).reshape(2, count, 40)
    with stored_weights_in_place():
        linear(x.requires_grad_())
        low_rank_product(linear, by_trial, None, [Pair(pairs.a, pairs.b, ranks)], pairs.scale)
        assert calls == [], "training's gradients come from the dense way"
        with torch.no_grad():
            assert relative_error(linear(x), dense) < SIXTEEN_BITS
            got = low_rank_product(linear, by_trial, None, [Pair(pairs.a, pairs.b, ranks)], pairs.scale)
            assert relative_error(got, dense_pairs) < SIXTEEN_BITS
            assert calls == [None, None]
            low_rank_product(linear, by_trial, by_trial, [Pair(pairs.a, pairs.b, ranks)], pairs.scale)
            linear(x[:DECODE_ROWS])
            assert len(calls) == 2
    with torch.no_grad():
        linear(x)
        assert len(calls) == 2, "evaluating's loss is that of the products that train"
        with int8_activations():
            assert relative_error(linear(x), dense) < 0.02
    assert calls[2] is not None


def test_layers_in_nf4_take_it_where_int8_is_asked_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    plain = prefill_gemm.nf4_gemm

    def told(x: Tensor, *weights: Any) -> Tensor | None:
        y = plain(x, *weights)
        taken.append(0 if y is None else len(x))
        return y

    monkeypatch.setattr(prefill_gemm, "nf4_gemm", told)
    linear, x = layer("nf4", 128, 40), rows_of(200, 128)
    exact = wanted(linear, x, None)
    with torch.no_grad(), stored_weights_in_place():
        for count in (1, 100, 200):
            assert relative_error(linear(x[:count]), exact[:count]) < SIXTEEN_BITS
        assert not any(taken)
        with int8_activations():
            # Rows that are few enough for the kernel of decoding otherwise are many here.
            for count in (31, 32, 100, 200):
                assert relative_error(linear(x[:count]), exact[:count]) < 0.02
    assert [count for count in taken if count] == [32, 100, 200]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("count", "width"), [(1, 1), (3, 31), (12, 100), (40, 1000)])
def test_the_largest_columns_are_those_of_a_sort(dtype: torch.dtype, count: int, width: int) -> None:
    x = rows_of(count, width).to(dtype)
    absmax = x.float().abs().amax(0)
    for wanted_count in {1, (width + 1) // 2, width}:
        found = prefill_gemm.largest_columns_in_c(x, wanted_count)
        assert torch.equal(found, found.sort().values)
        assert len(found.unique()) == wanted_count
        assert torch.equal(absmax[found].sort().values, absmax.sort().values[width - wanted_count :])


def test_of_columns_alike_the_first_are_the_largest() -> None:
    x = torch.ones(4, 50)
    x[2, 30], x[1, 45] = -2, torch.inf
    assert prefill_gemm.largest_columns_in_c(x, 5).tolist() == [0, 1, 2, 30, 45]
    assert prefill_gemm.largest_columns_in_c(torch.zeros(2, 20), 3).tolist() == [0, 1, 2]
