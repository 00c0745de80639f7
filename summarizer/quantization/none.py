"""Weights as the checkpoint has them."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from summarizer.ops import decode_gemm
from summarizer.ops.decode_gemm import Epilogue
from summarizer.quantization.protocol import Parts, PartShapes, WeightFormat, require_finite


class _Unquantized(WeightFormat):
    name = "none"
    version = 1

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        require_finite(weight)
        return {"weight": weight.contiguous()}

    def stored_parts(self, shape: tuple[int, int], dtype: torch.dtype) -> PartShapes:
        return {"weight": (shape, dtype)}

    def dequantize(self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        return parts["weight"].to(dtype)

    def decode_gemm(
        self, x: Tensor, parts: Parts, shape: tuple[int, int], epilogue: Epilogue
    ) -> Tensor | None:
        if not decode_gemm.supports(x, parts["weight"], decode_gemm.DENSE):
            return None
        return decode_gemm.dense_gemm(x, parts["weight"], epilogue)

    def rows(
        self, parts: Parts, shape: tuple[int, int], ids: Int[Tensor, " ..."], dtype: torch.dtype
    ) -> Tensor:
        return parts["weight"][ids].to(dtype)


FORMAT = _Unquantized()
