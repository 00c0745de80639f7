"""Products of a few rows on stored weights, in C: against the dense product in fp64."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from stored_products import layer, pairs_of, product, rows_of, wanted

from summarizer.ops import decode_gemm, native
from summarizer.ops.decode_gemm import (
    CODED,
    DECODE_ROWS,
    DENSE,
    WHOLE_NUMBERS,
    Epilogue,
    stored_weights_in_place,
)
from summarizer.quantization import weight_format

KERNELS = {
    "int8": (WHOLE_NUMBERS, "int8_gemm"),
    "nf4": (WHOLE_NUMBERS, "nf4_gemm"),
    "blockwise8": (CODED, "blockwise8_gemm"),
    "fp8": (CODED, "fp8_gemm"),
    "none": (DENSE, "dense_gemm"),
}
BOUND = {"int8": 1e-4, "nf4": 2e-4, "blockwise8": 1e-4, "fp8": 1e-4, "none": 1e-6}
"""Where weights are whole numbers, x is rounded to 16 bits of its row's largest value, and nf4's levels to 14: half
a step of 1/8191 where the root mean square of normal weights in a block is 0.4. bf16 products would have 2e-3."""
by_each_kernel = pytest.mark.parametrize(
    "format_name",
    [
        pytest.param(name, marks=pytest.mark.skipif(not native.available(source), reason="no kernel here"))
        for name, (source, _) in KERNELS.items()
    ],
)
in_c = pytest.mark.skipif(
    not native.available(WHOLE_NUMBERS),
    reason="the kernel wants Linux, AVX-512 with VNNI and a C compiler; torch's products serve here",
)


@pytest.fixture
def fresh_compilation() -> Iterator[None]:
    """Nothing is remembered of what was compiled before, nor afterwards of what this test compiled."""
    native.library.cache_clear()
    native._say.cache_clear()
    yield
    native.library.cache_clear()
    native._say.cache_clear()


@by_each_kernel
@pytest.mark.parametrize(
    ("rows", "d_in", "d_out", "trials", "dim"),
    [
        (1, 256, 64, 1, 2),
        (1, 16384, 40, 1, 2),  # longer than the nearest cache: eight rows of int8 at a time
        (1, 8256, 13, 1, 2),  # and what is left of eight
        (2, 64, 7, 2, 3),
        (3, 576, 33, 0, 0),  # half a register of nf4 at the end
        (7, 128, 1, 7, 1),
        (DECODE_ROWS, 192, 801, 4, 17),
    ],
)
def test_the_product_is_the_dense_one(
    format_name: str, rows: int, d_in: int, d_out: int, trials: int, dim: int
) -> None:
    linear, x = layer(format_name, d_in, d_out), rows_of(rows, d_in)
    pairs = pairs_of(trials, dim, d_in, d_out) if trials else None
    right = wanted(linear, x, pairs)
    assert (product(linear, x, pairs) - right).norm() < BOUND[format_name] * right.norm()


@by_each_kernel
def test_as_many_rows_as_a_format_takes(format_name: str) -> None:
    linear = layer(format_name, 192, 40)
    x, pairs = rows_of(linear.weight.format.decode_rows, 192), pairs_of(4, 2, 192, 40)
    right = wanted(linear, x, pairs)
    assert (product(linear, x, pairs) - right).norm() < BOUND[format_name] * right.norm()


@by_each_kernel
@pytest.mark.parametrize(("count", "size"), [(0, 1.0), (1, 30.0), (3, 1000.0)])
def test_it_is_nearer_to_the_exact_product_than_bf16_by_far(
    format_name: str, count: int, size: float
) -> None:
    linear, x = layer(format_name, 2048, 96), rows_of(4, 2048)
    x[:, 5 : 5 + count] *= size  # a trained model's few large columns take most of the grid
    linear.bias = torch.zeros(96)
    right = wanted(linear, x, None)
    in_bf16 = x.bfloat16() @ linear.weight.dense(torch.bfloat16).T
    assert (product(linear, x) - right).norm() < 0.25 * (in_bf16 - right).norm()


@in_c
def test_the_largest_sums_of_nf4_fit_their_32_bits() -> None:
    linear = layer("nf4", 256, 3)
    linear.weight.load(weight_format("nf4").quantize(torch.tensor([[1.0], [-1.0], [0.5]]).expand(3, 256)))
    linear.bias = torch.zeros(3)
    assert torch.allclose(product(linear, torch.ones(5, 256)), torch.tensor([256.0, -256.0, 128.0]))


@in_c
@pytest.mark.parametrize("place", range(0, 192, 7))
def test_each_nf4_weight_meets_its_own_x(place: int) -> None:
    linear, x = layer("nf4", 192, 5), torch.zeros(3, 192)
    x[torch.arange(3), torch.tensor([place, (place + 1) % 192, (place + 100) % 192])] = 1.0
    right = wanted(linear, x, None)
    assert torch.allclose(product(linear, x).double(), right, atol=2e-3)


@in_c
@pytest.mark.parametrize("d_in", [1, 63, 65, 100, 8201])
def test_int8_rows_of_any_length(d_in: int) -> None:
    linear, x = layer("int8", d_in, 11), rows_of(1 if d_in > 8192 else 2, d_in)
    right = wanted(linear, x, None)
    assert (product(linear, x) - right).norm() < BOUND["int8"] * right.norm()


@by_each_kernel
def test_a_row_s_result_does_not_depend_on_the_others_nor_on_threads(format_name: str) -> None:
    linear, x, pairs = layer(format_name, 320, 300), rows_of(12, 320), pairs_of(1, 4, 320, 300)
    together = product(linear, x, pairs)
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            alone = torch.cat([product(linear, row[None], pairs) for row in x])
        finally:
            torch.set_num_threads(before)
        assert torch.equal(alone, together)


@by_each_kernel
def test_any_number_of_few_rows(format_name: str) -> None:
    linear, x = (
        layer(format_name, 4160, 3),
        rows_of(DECODE_ROWS, 4160),
    )  # too long for a pass of one row of W at a time
    alone = torch.cat([product(linear, row[None]) for row in x])
    for count in range(1, DECODE_ROWS + 1):
        assert torch.equal(product(linear, x[:count]), alone[:count])


@by_each_kernel
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_told_and_leaves_the_others_alone(
    format_name: str, broken: float
) -> None:
    linear, x = layer(format_name, 128, 9), rows_of(3, 128)
    right = product(linear, x)
    x[1, 77] = broken
    got = product(linear, x)
    assert torch.equal(got[[0, 2]], right[[0, 2]])
    assert not got[1].isfinite().any()


@by_each_kernel
@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e30])
def test_zeros_and_extreme_rows(format_name: str, scale: float) -> None:
    linear, x = layer(format_name, 128, 9), rows_of(1, 128) * scale
    linear.bias = torch.zeros(9)
    right = wanted(linear, x, None)
    # 1e-38 is below what the grid of x tells from zero.
    assert (product(linear, x) - right).norm() <= BOUND[format_name] * right.norm() + 1e-35


@by_each_kernel
def test_a_layer_takes_it_for_few_rows_without_gradients_and_never_else(
    format_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    _, name = KERNELS[format_name]
    kernel = getattr(decode_gemm, name)
    monkeypatch.setattr(decode_gemm, name, lambda x, *more: (asked.append(len(x)), kernel(x, *more))[1])
    linear = layer(format_name, 64, 8)
    most = 128 if format_name in ("nf4", "blockwise8", "fp8") else DECODE_ROWS
    with stored_weights_in_place(), torch.no_grad():
        linear(rows_of(most, 64))
        linear(rows_of(most + 1, 64))
        linear(rows_of(2, 64).to(torch.bfloat16)[:, None])
    with stored_weights_in_place():
        linear(rows_of(1, 64))
    with torch.no_grad():
        linear(rows_of(1, 64))
    assert asked == [most, 2]


@pytest.mark.parametrize("format_name", ["nf4", "blockwise8", "fp8", "none"])
def test_rows_on_another_device_are_not_the_kernel_s(format_name: str) -> None:
    """int8 alone has a kernel of a GPU's own."""
    weight = layer(format_name, 64, 8).weight
    x = torch.empty(2, 64, device="meta")
    assert weight.format.decode_gemm(x, weight.parts, weight.shape, Epilogue()) is None


@pytest.mark.usefixtures("fresh_compilation")
@pytest.mark.parametrize("format_name", KERNELS)
@pytest.mark.parametrize("compiler", ["false", "no-such-compiler", None])
def test_without_a_compiler_torch_multiplies_and_the_log_says_why(
    format_name: str,
    compiler: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SUMMARIZER_CACHE", str(tmp_path))
    if compiler is None:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(native.shutil, "which", lambda name: None)
    else:
        monkeypatch.setenv("CC", compiler)
    linear, x = layer(format_name, 128, 48), rows_of(2, 128)
    with caplog.at_level(logging.DEBUG), stored_weights_in_place(), torch.no_grad():
        got = [linear(x) for _ in range(3)]
    right = wanted(linear, x, None)
    assert all((y - right).norm() < 1e-5 * right.norm() for y in got)
    said = [record for record in caplog.records if record.name == native.__name__]
    assert len(said) <= 1
    reason = {"false": "`false` ended with exit code 1", "no-such-compiler": "'no-such-compiler'"}.get(
        compiler or ""
    )
    assert (reason or f"{KERNELS[format_name][0]} is not compiled") in said[0].getMessage()
    assert not list(tmp_path.rglob("*.so"))


@in_c
@pytest.mark.usefixtures("fresh_compilation")
def test_it_is_compiled_once_and_shares_torch_s_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUMMARIZER_CACHE", str(tmp_path))
    product(layer("int8", 64, 8), rows_of(1, 64))
    (made,) = (tmp_path / "kernels").iterdir()
    written = made.stat().st_mtime_ns
    native.library.cache_clear()
    native._say.cache_clear()
    product(layer("int8", 64, 8), rows_of(1, 64))
    assert made.stat().st_mtime_ns == written
    loaded = {
        line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libgomp" in line
    }
    assert len(loaded) == 1, "two OpenMP libraries would wait for each other's threads"
