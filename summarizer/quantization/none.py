"""Weights as the checkpoint has them."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from summarizer.ops import decode_gemm
from summarizer.ops.decode_gemm import LowRankPairs
from summarizer.quantization.protocol import DenseMatmul, Parts, PartShapes, require_finite


class _Unquantized(DenseMatmul):
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
        self,
        x: Tensor,
        parts: Parts,
        shape: tuple[int, int],
        *,
        bias: Tensor | None,
        pairs: LowRankPairs | None,
    ) -> Tensor | None:
        if not decode_gemm.supports(x, parts["weight"], decode_gemm.DENSE):
            return None
        return decode_gemm.dense_gemm(x, parts["weight"], bias, pairs)

    def rows(
        self, parts: Parts, shape: tuple[int, int], ids: Int[Tensor, " ..."], dtype: torch.dtype
    ) -> Tensor:
        return parts["weight"][ids].to(dtype)


FORMAT = _Unquantized()
