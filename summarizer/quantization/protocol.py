"""What a storage format of frozen weights must be able to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from torch import Tensor

from summarizer.ops.decode_gemm import DECODE_ROWS, LowRankPairs
from summarizer.ops.elementwise import scale_columns_, scaled_columns

Parts = Mapping[str, Tensor]
"""A stored weight: named tensors, all that is needed to recover it but its shape."""
PartShapes = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""What parts will look like: each one's shape and type."""


@runtime_checkable
class WeightFormat(Protocol):
    """Stateless: the tensors live in the layer, the knowledge of them here."""

    name: str
    version: int
    """Raised when the stored bytes change meaning, so that cached bases of an older version are made anew."""
    decode_rows: int
    """Up to so many rows, `decode_gemm` takes less time on a CPU than `matmul` or `prefill_gemm`."""

    def quantize(self, weight: Float[Tensor, "d_out d_in"]) -> dict[str, Tensor]:
        """Store a weight. Raises ValueError on a weight that is not finite."""
        ...

    def stored_parts(self, shape: tuple[int, int], dtype: torch.dtype) -> PartShapes:
        """What `quantize` would return for a weight of that shape and type, without one."""
        ...

    def dequantize(
        self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype
    ) -> Float[Tensor, "d_out d_in"]:
        """Recover the whole weight."""
        ...

    def matmul(
        self, x: Float[Tensor, "... d_in"], parts: Parts, shape: tuple[int, int]
    ) -> Float[Tensor, "... d_out"]:
        """x @ W.T, in the precision of x."""
        ...

    def decode_gemm(
        self,
        x: Float[Tensor, "m d_in"],
        parts: Parts,
        shape: tuple[int, int],
        *,
        bias: Float[Tensor, " d_out"] | None,
        pairs: LowRankPairs | None,
    ) -> Float32[Tensor, "m d_out"] | None:
        """x @ W.T + bias and what adapters add for a few rows, on the stored weight as it lies in memory.

        x is in fp32 on a CPU. None where there is no kernel for that.
        """
        ...

    def prefill_gemm(
        self,
        x: Float[Tensor, "m d_in"],
        parts: Parts,
        shape: tuple[int, int],
        *,
        bias: Float[Tensor, " d_out"] | None,
        pairs: LowRankPairs | None,
    ) -> Float[Tensor, "m d_out"] | None:
        """`decode_gemm` for the rows of prompts, in the precision of x. None where there is no kernel for that."""
        ...

    def matmul_backward(
        self, grad: Float[Tensor, "... d_out"], parts: Parts, shape: tuple[int, int]
    ) -> Float[Tensor, "... d_in"]:
        """grad @ W: the gradient of `matmul` for x."""
        ...

    def rows(
        self, parts: Parts, shape: tuple[int, int], ids: Int[Tensor, " ..."], dtype: torch.dtype
    ) -> Float[Tensor, "... d_in"]:
        """Recover only the rows in `ids`, as an embedding reads them."""
        ...


class DenseMatmul:
    """Both matmuls with the weight dequantized whole, in each pass anew: what most formats do."""

    decode_rows = DECODE_ROWS

    def dequantize(
        self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype
    ) -> Float[Tensor, "d_out d_in"]:
        raise NotImplementedError

    def factors(
        self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "d_out d_in"], Float[Tensor, " d_out"] | None]:
        """A matrix and a factor for each of its rows (None for 1), whose product is the weight.

        A factor on the product's output can cost less than one on every weight.
        """
        return self.dequantize(parts, shape, dtype), None

    def matmul(self, x: Tensor, parts: Parts, shape: tuple[int, int]) -> Tensor:
        matrix, factor = self.factors(parts, shape, x.dtype)
        y = F.linear(x, matrix)
        return y if factor is None else scale_columns_(y, factor)

    def decode_gemm(
        self,
        x: Tensor,
        parts: Parts,
        shape: tuple[int, int],
        *,
        bias: Tensor | None,
        pairs: LowRankPairs | None,
    ) -> Tensor | None:
        return None

    def prefill_gemm(
        self,
        x: Tensor,
        parts: Parts,
        shape: tuple[int, int],
        *,
        bias: Tensor | None,
        pairs: LowRankPairs | None,
    ) -> Tensor | None:
        return None

    def matmul_backward(self, grad: Tensor, parts: Parts, shape: tuple[int, int]) -> Tensor:
        matrix, factor = self.factors(parts, shape, grad.dtype)
        scaled = grad if factor is None else scaled_columns(grad, factor)
        # Flat: of several axes that are not contiguous, torch would make a copy of the matrix for each.
        return (scaled.reshape(-1, shape[0]) @ matrix).reshape(*grad.shape[:-1], shape[1])


def require_finite(weight: Tensor) -> None:
    """Raises ValueError where a weight holds NaN or infinity: its scale would poison a whole row or block."""
    # Two numbers tell it, and NaN shows in both: isfinite would make a dense copy of the largest weight.
    if not torch.isfinite(torch.stack(torch.aminmax(weight))).all():
        raise ValueError("the weight holds NaN or infinite values")
