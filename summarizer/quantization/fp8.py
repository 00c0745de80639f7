"""8-bit floats (e4m3), one fp32 scale for each output row: storage that Hopper's tensor cores multiply directly.

Where they do, activations are quantized too (8-bit weights, 8-bit activations: W8A8). Elsewhere the weight is
dequantized and multiplied in the precision of the activations.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from summarizer.ops import coded_rows
from summarizer.ops.few_rows import LowRankPairs
from summarizer.quantization import fp8_products
from summarizer.quantization.int8 import WEIGHTS_AT_ONCE
from summarizer.quantization.protocol import DenseProducts, Parts, PartShapes, require_finite


class _WeightOnly(DenseProducts):
    """What is stored, and products in the precision of x."""

    name = "fp8"
    version = 1
    few_rows = 128  # a dense copy is as fast from 210 rows on (two cores with AVX-512, bf16 products)

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        require_finite(weight)
        q = torch.empty(weight.shape, dtype=fp8_products.E4M3, device=weight.device)
        scale = torch.empty(weight.shape[0], 1, device=weight.device)
        rows_at_once = max(WEIGHTS_AT_ONCE // weight.shape[1], 1)
        for start in range(0, weight.shape[0], rows_at_once):
            rows = slice(start, start + rows_at_once)
            q[rows], scale[rows] = fp8_products.quantize_rows(weight[rows])
        return {"q": q, "scale": scale}

    def stored_parts(self, shape: tuple[int, int], dtype: torch.dtype) -> PartShapes:
        return {"q": (shape, fp8_products.E4M3), "scale": ((shape[0], 1), torch.float32)}

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

    def __init__(self, gradients: torch.dtype = fp8_products.E4M3) -> None:
        self.gradients = gradients

    def product(self, x: Tensor, parts: Parts, shape: tuple[int, int]) -> Tensor:
        return fp8_products.product(x, parts["q"], parts["scale"])

    def product_backward(self, grad: Tensor, parts: Parts, shape: tuple[int, int]) -> Tensor:
        return fp8_products.product_backward(grad, parts["q"], parts["scale"], self.gradients)


WEIGHT_ONLY = _WeightOnly()
W8A8 = _Quantizing()
W8A8_E5M2_GRADIENTS = _Quantizing(torch.float8_e5m2)


class _Fp8(_WeightOnly):
    """W8A8 where the device multiplies fp8, else weight-only."""

    def product(self, x: Tensor, parts: Parts, shape: tuple[int, int]) -> Tensor:
        by = W8A8 if fp8_products.has_fp8_products(x, shape) else WEIGHT_ONLY
        return by.product(x, parts, shape)

    def few_rows_product(
        self,
        x: Tensor,
        parts: Parts,
        shape: tuple[int, int],
        bias: Tensor | None,
        pairs: LowRankPairs | None,
    ) -> Tensor | None:
        if x.device.type != "cpu" or not coded_rows.is_at_hand():
            return None
        return coded_rows.fp8_product(x, parts["q"], parts["scale"], bias, pairs)

    def product_backward(self, grad: Tensor, parts: Parts, shape: tuple[int, int]) -> Tensor:
        by = W8A8 if fp8_products.has_fp8_products(grad, shape) else WEIGHT_ONLY
        return by.product_backward(grad, parts, shape)


FORMAT = _Fp8()
