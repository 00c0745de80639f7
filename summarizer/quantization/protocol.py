"""What a storage format of frozen weights can do, and how it multiplies where it has no kernel of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from summarizer.ops.decode_gemm import DECODE_ROWS, Epilogue
from summarizer.ops.elementwise import scale_columns_, scaled_columns
from summarizer.ops.linear import linear

Parts = Mapping[str, Tensor]
"""A stored weight: named tensors, all that is needed to recover it but its shape."""
PartShapes = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""What parts will look like: each one's shape and type."""


Gain = Float32[Tensor, "n 1 d_out"] | None
"""What each output of each of `n` trials, the first axis of x, is multiplied by; None for nothing."""


class WeightFormat(ABC):
    """Stateless: the tensors live in the layer, the knowledge of them here.

    A format says how a weight is stored and recovered. Unless it has kernels of its own, its products are of a
    weight that is dequantized whole, in each pass anew.
    """

    name: str
    version: int
    """Raised when the stored bytes change meaning, so that cached bases of an older version are made anew."""
    decode_rows: int = DECODE_ROWS
    """Up to so many rows, `decode_gemm` takes less time on a CPU than `matmul` or `prefill_gemm`."""

    # --- storing ---

    @abstractmethod
    def quantize(self, weight: Float[Tensor, "d_out d_in"]) -> dict[str, Tensor]:
        """Store a weight. Raises ValueError on a weight that is not finite."""

    @abstractmethod
    def stored_parts(self, shape: tuple[int, int], dtype: torch.dtype) -> PartShapes:
        """What `quantize` would return for a weight of that shape and type, without one."""

    @abstractmethod
    def dequantize(
        self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype
    ) -> Float[Tensor, "d_out d_in"]:
        """Recover the whole weight."""

    @abstractmethod
    def rows(
        self, parts: Parts, shape: tuple[int, int], ids: Int[Tensor, " ..."], dtype: torch.dtype
    ) -> Float[Tensor, "... d_in"]:
        """Recover only the rows in `ids`, as an embedding reads them."""

    # --- multiplying ---

    def factors(
        self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "d_out d_in"], Float[Tensor, " d_out"] | None]:
        """A matrix and a factor for each of its rows (None for 1), whose product is the weight.

        A factor on the product's output can cost less than one on every weight.
        """
        return self.dequantize(parts, shape, dtype), None

    def matmul(
        self, x: Float[Tensor, "... d_in"], parts: Parts, shape: tuple[int, int], gain: Gain = None
    ) -> Float[Tensor, "... d_out"]:
        """x @ W.T times the gain, in the precision of x."""
        matrix, factor = self.factors(parts, shape, x.dtype)
        y = linear(x, matrix)
        factor = _times(factor, gain)
        return y if factor is None else scale_columns_(y, factor)

    def matmul_backward(
        self, grad: Float[Tensor, "... d_out"], parts: Parts, shape: tuple[int, int], gain: Gain = None
    ) -> Float[Tensor, "... d_in"]:
        """(grad times the gain) @ W: the gradient of `matmul` for x."""
        matrix, factor = self.factors(parts, shape, grad.dtype)
        factor = _times(factor, gain)
        scaled = grad if factor is None else scaled_columns(grad, factor)
        # Flat: of several axes that are not contiguous, torch would make a copy of the matrix for each.
        return linear(scaled.reshape(-1, shape[0]), matrix.t()).reshape(*grad.shape[:-1], shape[1])

    def decode_gemm(
        self, x: Float[Tensor, "m d_in"], parts: Parts, shape: tuple[int, int], epilogue: Epilogue
    ) -> Float32[Tensor, "m d_out"] | None:
        """x @ W.T and its epilogue, for a few rows, on the stored weight as it lies in memory.

        x is in fp32 on a CPU. None where there is no kernel for that.
        """
        return None

    def prefill_gemm(
        self, x: Float[Tensor, "m d_in"], parts: Parts, shape: tuple[int, int], epilogue: Epilogue
    ) -> Float[Tensor, "m d_out"] | None:
        """`decode_gemm` for the rows of prompts, in the precision of x. None where there is no kernel for that."""
        return None


def _times(factor: Tensor | None, gain: Gain) -> Tensor | None:
    return factor if gain is None else gain if factor is None else factor * gain


def require_finite(weight: Tensor) -> None:
    """Raises ValueError where a weight holds NaN or infinity: its scale would poison a whole row or block."""
    # Two numbers tell it, and NaN shows in both: isfinite would make a dense copy of the largest weight.
    if not torch.isfinite(torch.stack(torch.aminmax(weight))).all():
        raise ValueError("the weight holds NaN or infinite values")
