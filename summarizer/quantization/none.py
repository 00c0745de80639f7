"""Weights as the checkpoint has them."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from summarizer.ops import dense_rows
from summarizer.ops.few_rows import LowRankPairs
from summarizer.quantization.protocol import DenseProducts, Parts, PartShapes, require_finite


class _Unquantized(DenseProducts):
    name = "none"
    version = 1

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        require_finite(weight)
        return {"weight": weight.contiguous()}

    def stored_parts(self, shape: tuple[int, int], dtype: torch.dtype) -> PartShapes:
        return {"weight": (shape, dtype)}

    def dequantize(self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        return parts["weight"].to(dtype)

    def few_rows_product(
        self,
        x: Tensor,
        parts: Parts,
        shape: tuple[int, int],
        bias: Tensor | None,
        pairs: LowRankPairs | None,
    ) -> Tensor | None:
        weight = parts["weight"]
        if x.device.type != "cpu" or not dense_rows.is_at_hand(weight.dtype):
            return None
        return dense_rows.dense_product(x, weight, bias, pairs)

    def rows(
        self, parts: Parts, shape: tuple[int, int], ids: Int[Tensor, " ..."], dtype: torch.dtype
    ) -> Tensor:
        return parts["weight"][ids].to(dtype)


FORMAT = _Unquantized()
