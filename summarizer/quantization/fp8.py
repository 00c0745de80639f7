"""8-bit floats (e4m3), one fp32 scale for each output row: storage that Hopper's tensor cores multiply directly.

Where they do, activations are quantized too (8-bit weights, 8-bit activations: W8A8). Elsewhere the weight is
dequantized and multiplied in the precision of the activations. Activations and gradients are quantized as they
come, each row (one token) by its own largest number, so that no token's result depends on another's, and no trial's
on another trial's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from summarizer import compat
from summarizer.ops import decode_gemm
from summarizer.ops.decode_gemm import Epilogue
from summarizer.ops.elementwise import scale_columns_, scaled_columns
from summarizer.quantization.int8 import WEIGHTS_AT_ONCE
from summarizer.quantization.protocol import Gain, Parts, PartShapes, WeightFormat, require_finite

E4M3 = torch.float8_e4m3fn
"""3 bits of mantissa, 4 of exponent, largest number 448. Source: Micikevicius et al. 2022 (arXiv:2209.05433)."""


def has_fp8_matmul(x: Tensor, shape: tuple[int, int]) -> bool:
    """Whether the device of x multiplies fp8 matrices with a weight of that shape, and x asks for bf16.

    Compute capability 8.9 and up; sides that 16 divides; bf16 is the only output of row-wise scales. Source:
    the checks of torch's own product. Everything here is a constant to torch.compile.
    """
    if not x.is_cuda or x.dtype != torch.bfloat16 or torch.version.hip is not None:
        return False
    gpu = torch.cuda.get_device_properties(x.device)
    return (gpu.major, gpu.minor) >= (8, 9) and shape[0] % 16 == 0 and shape[1] % 16 == 0


def quantize_rows(
    x: Float[Tensor, "rows d"], to: torch.dtype = E4M3
) -> tuple[Float[Tensor, "rows d"], Float32[Tensor, "rows 1"]]:
    """Each row over its scale, which puts its largest number on the largest of `to`; and the scales.

    A row whose scale would be no normal fp32 number becomes zeros with a scale of 1. NaN and infinity make NaN
    in the product of their row.
    """
    largest = torch.finfo(to).max
    rows = x.float()
    scale = rows.abs().amax(dim=1, keepdim=True) / largest
    scale = torch.where(scale >= torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
    # No clamp: a quotient would have to be wrong by 1/32 to round past the largest.
    return (rows / scale).to(to), scale


def scaled_matmul(
    a: Float[Tensor, "rows d"],
    a_scale: Float32[Tensor, "rows 1"],
    b: Float[Tensor, "columns d"],
    b_scale: Float32[Tensor, "columns 1"],
    dtype: torch.dtype,
) -> Float[Tensor, "rows columns"]:
    """(a * a_scale) @ (b * b_scale).T of fp8 matrices, by tensor cores on CUDA and in fp32 elsewhere.

    Both multiply the same 8-bit numbers, apply the scales to the sums, and round once, to `dtype`; tensor cores
    add with fewer bits than fp32 has.
    """
    if a.is_cuda:
        return compat.scaled_mm(a, b, a_scale, b_scale, dtype)
    with torch.autocast(a.device.type, enabled=False):
        return (a.float() @ b.float().t() * a_scale * b_scale.t()).to(dtype)


def quantizing_matmul(
    x: Float[Tensor, "... d_in"], q: Float[Tensor, "d_out d_in"], scale: Float32[Tensor, "d_out 1"]
) -> Float[Tensor, "... d_out"]:
    """x @ (q * scale).T with x quantized row by row, in the precision of x."""
    rows, row_scale = quantize_rows(x.reshape(-1, q.shape[1]))
    return scaled_matmul(rows, row_scale, q, scale, x.dtype).reshape(*x.shape[:-1], q.shape[0])


def quantizing_matmul_backward(
    grad: Float[Tensor, "... d_out"],
    q: Float[Tensor, "d_out d_in"],
    scale: Float32[Tensor, "d_out 1"],
    to: torch.dtype = E4M3,
) -> Float[Tensor, "... d_in"]:
    """grad @ (q * scale) with grad quantized row by row, in the precision of grad.

    The weight's scales lie along the summed axis, where a product takes none: they go into grad before it is
    quantized. Tensor cores want q with the summed axis last, so it is transposed in each pass anew (a copy of
    one byte a weight).

    e4m3, not e5m2: the scale of each row already follows the size of gradients, within one row e4m3 spans 2^17, and
    its rounding is half as coarse. torchao's row-wise recipe does the same.
    """
    rows, row_scale = quantize_rows(grad.reshape(-1, q.shape[0]).float() * scale.t(), to)
    transposed = q.t().clone(memory_format=torch.contiguous_format)
    y = scaled_matmul(rows, row_scale, transposed, scale.new_ones(q.shape[1], 1), grad.dtype)
    return y.reshape(*grad.shape[:-1], q.shape[1])


class _WeightOnly(WeightFormat):
    """What is stored, and products in the precision of x."""

    name = "fp8"
    version = 1
    decode_rows = 128  # a dense copy is as fast from 210 rows on (two cores with AVX-512, bf16 products)

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        require_finite(weight)
        q = torch.empty(weight.shape, dtype=E4M3, device=weight.device)
        scale = torch.empty(weight.shape[0], 1, device=weight.device)
        rows_at_once = max(WEIGHTS_AT_ONCE // weight.shape[1], 1)
        for start in range(0, weight.shape[0], rows_at_once):
            rows = slice(start, start + rows_at_once)
            q[rows], scale[rows] = quantize_rows(weight[rows])
        return {"q": q, "scale": scale}

    def stored_parts(self, shape: tuple[int, int], dtype: torch.dtype) -> PartShapes:
        return {"q": (shape, E4M3), "scale": ((shape[0], 1), torch.float32)}

    def dequantize(self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        return (parts["q"].float() * parts["scale"]).to(dtype)

    def factors(
        self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        if dtype == torch.float16:  # as int8: a sum of unscaled products can pass its largest number
            return self.dequantize(parts, shape, dtype), None
        return parts["q"].to(dtype), parts["scale"].squeeze(1)  # exact: bf16 holds every e4m3 number

    def rows(
        self, parts: Parts, shape: tuple[int, int], ids: Int[Tensor, " ..."], dtype: torch.dtype
    ) -> Tensor:
        return (parts["q"][ids].float() * parts["scale"][ids]).to(dtype)


class _Quantizing(_WeightOnly):
    """Activations and gradients quantized too, on any device: off CUDA an emulation, to study the error by."""

    def __init__(self, gradients: torch.dtype = E4M3) -> None:
        self.gradients = gradients

    def matmul(self, x: Tensor, parts: Parts, shape: tuple[int, int], gain: Gain = None) -> Tensor:
        y = quantizing_matmul(x, parts["q"], parts["scale"])
        return y if gain is None else scale_columns_(y, gain)

    def matmul_backward(
        self, grad: Tensor, parts: Parts, shape: tuple[int, int], gain: Gain = None
    ) -> Tensor:
        grad = grad if gain is None else scaled_columns(grad, gain)
        return quantizing_matmul_backward(grad, parts["q"], parts["scale"], self.gradients)


WEIGHT_ONLY = _WeightOnly()
W8A8 = _Quantizing()
W8A8_E5M2_GRADIENTS = _Quantizing(torch.float8_e5m2)


class _Fp8(_WeightOnly):
    """W8A8 where the device multiplies fp8, else weight-only."""

    def matmul(self, x: Tensor, parts: Parts, shape: tuple[int, int], gain: Gain = None) -> Tensor:
        by = W8A8 if has_fp8_matmul(x, shape) else WEIGHT_ONLY
        return by.matmul(x, parts, shape, gain)

    def decode_gemm(
        self, x: Tensor, parts: Parts, shape: tuple[int, int], epilogue: Epilogue
    ) -> Tensor | None:
        if not decode_gemm.supports(x, parts["q"], decode_gemm.CODED):
            return None
        return decode_gemm.fp8_gemm(x, parts["q"], parts["scale"], epilogue)

    def matmul_backward(
        self, grad: Tensor, parts: Parts, shape: tuple[int, int], gain: Gain = None
    ) -> Tensor:
        by = W8A8 if has_fp8_matmul(grad, shape) else WEIGHT_ONLY
        return by.matmul_backward(grad, parts, shape, gain)


FORMAT = _Fp8()
