"""Each storage format against an independent reference: a closed form, bitsandbytes itself, a slow loop."""

from __future__ import annotations

import bitsandbytes.functional as bnb
import pytest
import torch
from torch import Tensor

from summarizer.quantization import NAMES, formats_of, int8, weight_format

pytestmark = pytest.mark.versions

SHAPES = [(3, 5), (1, 1), (5, 1), (7, 4097), (65, 129), (130, 62), (16, 64), (32, 48), (9, 160)]
"""Odd ones, and rows that blocks straddle: bitsandbytes' CPU kernel for nf4 is wrong on the last two."""
QUANTizED = [name for name in NAMES if name != "none"]


def drawn(shape: tuple[int, int]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[0] * 1000 + shape[1]))


def restored(name: str, weight: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    stored = weight_format(name)
    return stored.dequantize(stored.quantize(weight), (weight.shape[0], weight.shape[1]), dtype)


def test_names_are_the_config_s() -> None:
    assert NAMES == ("int8", "blockwise8", "nf4", "fp8", "none")
    assert [weight_format(name).name for name in NAMES] == list(NAMES)
    with pytest.raises(ValueError, match="'int4' is not one of int8"):
        weight_format("int4")
    assert formats_of("nf4") == ("nf4", "nf4")
    assert formats_of("nf4+int8") == ("nf4", "int8")


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_the_closed_form(shape: tuple[int, int]) -> None:
    weight = drawn(shape)
    parts = weight_format("int8").quantize(weight)
    for row, q, scale in zip(weight, parts["q"], parts["scale"], strict=True):
        step = max(abs(float(value)) for value in row) / 127
        assert float(scale) == pytest.approx(step, rel=1e-6)
        assert max(abs(float(w) - int(k) * step) for w, k in zip(row, q, strict=True)) <= step / 2 * 1.0001
        assert q.abs().max() == 127


def test_int8_in_slices_is_int8_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = drawn((65, 129))
    whole = int8.quantize(weight)
    monkeypatch.setattr(int8, "WEIGHTS_AT_ONCE", 300)
    sliced = int8.quantize(weight)
    assert torch.equal(whole[0], sliced[0])
    assert torch.equal(whole[1], sliced[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_blockwise8_is_bitsandbytes_own(shape: tuple[int, int]) -> None:
    weight = drawn(shape)
    q, state = bnb.quantize_blockwise(weight, blocksize=4096)
    assert torch.equal(restored("blockwise8", weight), bnb.dequantize_blockwise(q, state))


@pytest.mark.parametrize("shape", [(16, 64), (7, 4096), (1, 62)])
def test_nf4_is_bitsandbytes_own(shape: tuple[int, int]) -> None:
    weight = drawn(shape)
    q, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    assert torch.equal(restored("nf4", weight), bnb.dequantize_4bit(q, state))


def test_nf4_in_slices_is_nf4_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from summarizer.quantization import nf4

    weight = drawn((65, 129))
    whole = nf4.FORMAT.quantize(weight)
    monkeypatch.setattr(nf4, "WEIGHTS_AT_ONCE", 128)
    sliced = nf4.FORMAT.quantize(weight)
    assert all(torch.equal(whole[part], sliced[part]) for part in whole)


@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_is_the_slow_loop(shape: tuple[int, int]) -> None:
    """The published levels of NormalFloat4 (QLoRA, appendix E), nearest to w / absmax of its block of 64."""
    levels = [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
        0.7229568362236023, 1.0,
    ]  # fmt: skip
    weight = drawn(shape).reshape(-1)
    back = restored("nf4", drawn(shape)).reshape(-1)
    for start in range(0, min(weight.numel(), 64 * 20), 64):
        block = weight[start : start + 64]
        absmax = float(block.abs().max())
        for value, got in zip(block.tolist(), back[start : start + 64].tolist(), strict=True):
            nearest = min(abs(value / absmax - level) for level in levels)
            assert abs(got - value) / absmax == pytest.approx(nearest, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_rows_of_the_whole(name: str, shape: tuple[int, int]) -> None:
    stored = weight_format(name)
    parts = stored.quantize(drawn(shape))
    ids = torch.tensor([[shape[0] - 1, 0], [0, shape[0] // 2]])
    for dtype in (torch.float32, torch.bfloat16):
        whole = stored.dequantize(parts, shape, dtype)
        rows = stored.rows(parts, shape, ids, dtype)
        assert whole.dtype == rows.dtype == dtype
        assert tuple(whole.shape) == shape
        assert tuple(rows.shape) == (2, 2, shape[1])
        for i in range(2):
            for j in range(2):
                # Kernels round to bf16 in their own way; one unit in the last place.
                tolerance = 0 if dtype == torch.float32 else 2**-7
                torch.testing.assert_close(rows[i, j], whole[ids[i, j]], rtol=tolerance, atol=0)


@pytest.mark.parametrize(
    ("name", "bound"), [("int8", 0.012), ("blockwise8", 0.015), ("nf4", 0.11), ("fp8", 0.03), ("none", 0)]
)
def test_error_is_what_the_format_is_known_for(name: str, bound: float) -> None:
    weight = drawn((256, 512))
    error = float(torch.dist(restored(name, weight), weight) / weight.norm())
    assert error <= bound
    assert error >= bound / 3


@pytest.mark.parametrize("name", NAMES)
def test_zero_and_tiny_rows_come_back(name: str) -> None:
    weight = torch.zeros(4, 64)
    weight[2] = drawn((1, 64))
    weight[3] = 1e-44  # its step underflows
    back = restored(name, weight)
    assert torch.isfinite(back).all()
    # bitsandbytes' map puts a zero beside larger weights of its block on the level next to zero.
    assert back[:2].abs().max() <= (3e-5 * float(weight.abs().max()) if name == "blockwise8" else 0)
    assert restored(name, torch.zeros(4, 64)).count_nonzero() == 0
    assert torch.dist(back[2], weight[2]) <= 0.15 * weight[2].norm()
    assert back[3].abs().max() < 1e-3


def test_int8_scales_are_above_zero() -> None:
    _, scale = int8.quantize(torch.tensor([[0.0, 0.0], [1e-44, 0.0], [1.0, -2.0]]))
    assert (scale > 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_refused(name: str, bad: float) -> None:
    weight = drawn((65, 62))
    weight[33, 7] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        weight_format(name).quantize(weight)


@pytest.mark.parametrize("name", QUANTizED)
def test_a_half_precision_weight_is_quantized_as_its_fp32_self(name: str) -> None:
    weight = drawn((33, 65)).bfloat16()
    assert torch.equal(restored(name, weight), restored(name, weight.float()))


@pytest.mark.parametrize(("name", "bits"), [("int8", 8), ("blockwise8", 8), ("nf4", 4), ("fp8", 8)])
def test_size(name: str, bits: int) -> None:
    weight = drawn((256, 512))
    stored_bytes = sum(part.nbytes for part in weight_format(name).quantize(weight).values())
    assert stored_bytes * 8 / weight.numel() == pytest.approx(bits, rel=0.14)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 5), (65, 129), (130, 62)])
def test_the_gpu_restores_what_the_cpu_restores(name: str, shape: tuple[int, int]) -> None:
    stored = weight_format(name)
    parts = {part: value.cuda() for part, value in stored.quantize(drawn(shape)).items()}
    here = restored(name, drawn(shape))
    torch.testing.assert_close(
        stored.dequantize(parts, shape, torch.float32).cpu(), here, rtol=1e-6, atol=1e-7
    )
    ids = torch.tensor([2, 0], device="cuda")
    torch.testing.assert_close(
        stored.rows(parts, shape, ids, torch.float32).cpu(), here[[2, 0]], rtol=1e-6, atol=1e-7
    )
    there = stored.dequantize(stored.quantize(drawn(shape).cuda()), shape, torch.float32).cpu()
    assert torch.dist(there, drawn(shape)) <= 1.01 * torch.dist(here, drawn(shape)) + 1e-6
