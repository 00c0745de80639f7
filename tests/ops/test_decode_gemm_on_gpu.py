"""Products of few rows on stored int8 weights, in Triton: interpreted here, on a GPU where there is one."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys

import pytest
import torch
from interpreted import interpreted, interpreting
from stored_products import layer, pairs_of, rows_of, wanted
from torch import Tensor

from summarizer.ops.decode_gemm import (
    DECODE_ROWS_ON_GPU,
    PAIRS_IN_EVERY_PROGRAM,
    LowRankPairs,
    blocks_for,
    launch_int8,
    stored_weights_in_place,
    triton_available,
)
from summarizer.quantization.frozen import FrozenLinear

SHAPES = [
    # rows, d_in, d_out, trials, dim
    (1, 256, 64, 1, 2),
    (1, 1030, 40, 1, PAIRS_IN_EVERY_PROGRAM + 3),
    (1, 520, 13, 0, 0),
    (1, 16, 1, 1, PAIRS_IN_EVERY_PROGRAM),
    (2, 64, 7, 2, 3),
    (3, 577, 33, 0, 0),
    (7, 128, 1, 7, 1),
    (16, 192, 201, 4, 17),
    (17, 300, 70, 1, 2),
    (33, 129, 65, 3, 2),
    (DECODE_ROWS_ON_GPU, 64, 130, 2, 2),
]
__all__ = ["interpreting"]
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def parts_of(pairs: LowRankPairs | None) -> tuple[Tensor | None, ...]:
    return (None, None, None) if pairs is None else (pairs.a, pairs.b, pairs.scale)


@interpreted
@pytest.mark.usefixtures("interpreting")
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize(("rows", "d_in", "d_out", "trials", "dim"), SHAPES)
def test_the_product_is_the_one_in_fp64(
    rows: int, d_in: int, d_out: int, trials: int, dim: int, precision: torch.dtype
) -> None:
    linear = layer("int8", d_in, d_out)
    pairs = pairs_of(trials, dim, d_in, d_out) if trials else None
    x = rows_of(rows, d_in).to(precision)
    weight = linear.weight.parts
    y = launch_int8(x, weight["q"], weight["scale"], linear.bias, *parts_of(pairs))
    exact = wanted(linear, x, pairs)
    assert y.dtype == torch.float32
    # x is what it is in its precision; only the sums are rounded, to fp32.
    assert (y - exact).abs().max() < 2e-6 * exact.abs().max()


@interpreted
@pytest.mark.usefixtures("interpreting")
def test_a_layer_without_bias_and_inputs_with_gaps() -> None:
    linear = layer("int8", 64, 48)
    weight = linear.weight.parts
    x = rows_of(6, 64)
    y = launch_int8(x[::2], weight["q"], weight["scale"], None, None, None, None)
    assert torch.allclose(y, x[::2] @ linear.weight.dense(torch.float32).T, atol=1e-4)


@pytest.mark.parametrize("rows", range(1, DECODE_ROWS_ON_GPU + 1))
def test_blocks_hold_all_rows_and_are_as_triton_wants_them(rows: int) -> None:
    for precision in PRECISIONS:
        blocks = blocks_for(rows, 4096, 4096, precision)
        assert rows == 1 or blocks["block_m"] >= max(rows, 16)  # a product's least side
        assert all(size & (size - 1) == 0 for name, size in blocks.items() if name.startswith("block"))


def test_an_h100_has_a_program_for_nearly_each_of_its_multiprocessors() -> None:
    for rows, least in ((1, 2 * 128), (16, 128), (64, 64)):
        assert 4096 / blocks_for(rows, 4096, 4096, torch.bfloat16)["block_n"] >= least


def test_without_triton_weights_are_made_dense_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    triton_available.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not triton_available()
        assert not triton_available()
    triton_available.cache_clear()
    assert len(caplog.messages) == 1
    assert "triton is not installed" in caplog.messages[0]


def on_gpu(linear: FrozenLinear, pairs: LowRankPairs) -> tuple[FrozenLinear, LowRankPairs]:
    return linear.cuda(), LowRankPairs(pairs.a.cuda(), pairs.b.cuda(), pairs.scale.cuda())


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize(
    ("rows", "d_in", "d_out", "trials", "dim"),
    [*(shape for shape in SHAPES if shape[3]), (1, 4096, 50400, 1, 2), (4, 16384, 4096, 1, 2)],
)
@torch.no_grad()
def test_a_gpu_gives_the_product_in_fp64(
    rows: int, d_in: int, d_out: int, trials: int, dim: int, precision: torch.dtype
) -> None:
    linear, pairs, x = layer("int8", d_in, d_out), pairs_of(trials, dim, d_in, d_out), rows_of(rows, d_in)
    exact = wanted(linear, x.to(precision), pairs)
    linear, pairs = on_gpu(linear, pairs)
    with stored_weights_in_place():
        y = linear.weight.decode_gemm(x.to(precision).cuda(), linear.bias, pairs)
    assert y is not None, "the kernel was not taken"
    assert (y.cpu() - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.slow
def test_a_processor_imports_no_triton() -> None:
    code = "import sys, summarizer.quantization.int8, summarizer.generation.decoder; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = ran.stdout.split()
    assert "summarizer.ops.decode_gemm" in names
    assert "summarizer.ops.decode_gemm_triton" not in names
