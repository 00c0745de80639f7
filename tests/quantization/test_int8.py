"""int8 products without a dense copy, against the dense product in fp64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from summarizer.models.stored_base import read_base, write_base
from summarizer.ops import native, prefill_gemm
from summarizer.ops.decode_gemm import DECODE_ROWS, stored_weights_in_place
from summarizer.ops.prefill_gemm import PREFILL_ROWS, int8_activations, whole_number_gemm
from summarizer.quantization.int8 import FORMAT, dequantize, matmul_on_cpu

D_OUT, D_IN = 48, 128


def stored(d_in: int = D_IN) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    parts = FORMAT.quantize(torch.randn(D_OUT, d_in, generator=generator))
    return parts["q"], parts["scale"], dequantize(parts["q"], parts["scale"], torch.float64)


def relative_error(got: torch.Tensor, x: torch.Tensor, dense: torch.Tensor) -> float:
    wanted = x.double() @ dense.T
    assert got.shape == wanted.shape
    return float((got.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("rows", [1, 3, DECODE_ROWS])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_few_rows_are_multiplied_as_exactly_as_by_a_dense_weight(
    rows: int, dtype: torch.dtype, bound: float
) -> None:
    q, scale, dense = stored()
    x = torch.randn(2, rows, D_IN, generator=torch.Generator().manual_seed(1))[:1].to(dtype)
    with stored_weights_in_place():
        got = matmul_on_cpu(x, q, scale)
    assert got is not None
    assert got.dtype == dtype
    assert relative_error(got, x, dense) < bound


def test_other_products_are_left_to_the_dense_way() -> None:
    q, scale, _ = stored()
    with stored_weights_in_place():
        assert matmul_on_cpu(torch.randn(DECODE_ROWS + 1, D_IN), q, scale) is None
        assert matmul_on_cpu(torch.randn(1, D_IN, dtype=torch.float16), q, scale) is None
    assert matmul_on_cpu(torch.randn(1, D_IN), q, scale) is None, "training plans on the dense way"


def test_weights_that_the_kernel_would_crash_on_are_left_to_the_dense_product() -> None:
    """A tensor of a file may begin anywhere."""
    q, scale, _ = stored()
    askew = torch.empty(q.numel() + 1, dtype=torch.int8)[1:].reshape(q.shape)
    assert askew.data_ptr() % 16 != 0
    narrow, narrow_scale, _ = stored(100)
    with stored_weights_in_place():
        assert matmul_on_cpu(torch.randn(1, D_IN), askew.copy_(q), scale) is None
        assert matmul_on_cpu(torch.randn(1, 100), narrow, narrow_scale) is None


def test_tensors_of_a_stored_base_begin_where_the_kernel_wants_them(tmp_path: Path) -> None:
    tensors = [
        (name, torch.arange(size, dtype=torch.int8)) for name, size in (("a", 3), ("b", 130), ("c", 64))
    ]
    write_base(tmp_path, tensors, "int8", 1, "here")
    read = dict(read_base(tmp_path))
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors)
    assert [tensor.data_ptr() % 64 for tensor in read.values()] == [0, 0, 0]
    (file,) = tmp_path.glob("*.safetensors")
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert (8 + header) % 64 == 0, "so that tensors of usual shapes can stay mapped"


def with_large_columns(rows: int) -> torch.Tensor:
    """As a trained model's activations are: a few columns a hundred times the rest."""
    x = torch.randn(rows, D_IN, generator=torch.Generator().manual_seed(2))
    x[:, [5, 77]] *= 100
    return x.to(torch.bfloat16)


def test_whole_numbers_keep_the_largest_columns_apart() -> None:
    q, scale, dense = stored()
    x = with_large_columns(PREFILL_ROWS)
    # What matters is the error in what the other columns add; on one grid with the large ones it is over a fifth.
    small = x.clone()
    small[:, [5, 77]] = 0
    with int8_activations():
        got = matmul_on_cpu(x.float(), q, scale)
    assert got is not None
    one_grid = (x.float() / x.abs().amax(1, keepdim=True) * 127).round() * x.abs().amax(1, keepdim=True) / 127
    assert relative_error((one_grid.double() - (x - small).double()) @ dense.T, small, dense) > 0.2
    large = (x - small).to(torch.bfloat16).double() @ dense.T
    assert relative_error(got - large, small, dense) < 0.05


def test_inputs_are_in_int8_within_the_block_alone_and_zeros_stay_zeros() -> None:
    q, scale, _ = stored()
    zeros = torch.zeros(PREFILL_ROWS, D_IN)
    with int8_activations():
        got = matmul_on_cpu(zeros, q, scale)
        assert got is not None
        assert torch.equal(got, torch.zeros(PREFILL_ROWS, D_OUT))
    assert matmul_on_cpu(zeros, q, scale) is None


@pytest.mark.skipif(
    not native.available(prefill_gemm.SOURCE),
    reason="the kernel wants Linux, AVX-512 and a C compiler",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "d_in", "d_out"), [(PREFILL_ROWS, 128, 48), (37, 100, 33), (64, 320, 7)])
def test_whole_numbers_in_c_are_those_of_torch(
    dtype: torch.dtype, rows: int, d_in: int, d_out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(4)
    parts = FORMAT.quantize(torch.randn(d_out, d_in, generator=generator))
    x = torch.randn(rows, d_in, generator=generator)
    x[:, [3, 50]] *= 100
    x[5] = 0
    x[6, 9] = torch.nan
    x = x.to(dtype)
    in_c = whole_number_gemm(x, parts["q"], parts["scale"])
    monkeypatch.setattr(native, "available", lambda source: False)
    by_torch = whole_number_gemm(x, parts["q"], parts["scale"])
    assert in_c.dtype == by_torch.dtype == dtype
    finite = torch.arange(rows) != 6  # torch rounds NaN to some whole number or other
    assert not in_c[6].isfinite().any()
    # A number between two steps may go either way: 1 / step times x, or x / step.
    torch.testing.assert_close(in_c[finite], by_torch[finite], rtol=1e-2, atol=0.5)
    assert (in_c[finite].float() - by_torch[finite].float()).norm() < 4e-3 * by_torch[finite].float().norm()
