"""Weights as the checkpoint has them."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from summarizer.model.formats.protocol import DenseProducts, Parts, PartShapes, require_finite


class _Unquantised(DenseProducts):
    name = "none"
    version = 1

    def quantise(self, weight: Tensor) -> dict[str, Tensor]:
        require_finite(weight)
        return {"weight": weight.contiguous()}

    def stored_parts(self, shape: tuple[int, int], dtype: torch.dtype) -> PartShapes:
        return {"weight": (shape, dtype)}

    def dequantise(self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        return parts["weight"].to(dtype)

    def rows(
        self, parts: Parts, shape: tuple[int, int], ids: Int[Tensor, " ..."], dtype: torch.dtype
    ) -> Tensor:
        return parts["weight"][ids].to(dtype)


FORMAT = _Unquantised()
