"""What a storage format of frozen weights must be able to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Parts = Mapping[str, Tensor]
"""A stored weight: named tensors, all that is needed to recover it but its shape."""


@runtime_checkable
class WeightFormat(Protocol):
    """Stateless: the tensors live in the layer, the knowledge of them here."""

    name: str
    version: int
    """Raised when the stored bytes change meaning, so that cached bases of an older version are made anew."""

    def quantise(self, weight: Float[Tensor, "d_out d_in"]) -> dict[str, Tensor]:
        """Store a weight. Raises ValueError on a weight that is not finite."""
        ...

    def dequantise(
        self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype
    ) -> Float[Tensor, "d_out d_in"]:
        """Recover the whole weight."""
        ...

    def factors(
        self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "d_out d_in"], Float[Tensor, " d_out"] | None]:
        """A matrix and a factor for each of its rows (None for 1), whose product is the weight.

        For a product with the weight: a factor on the output costs less than one on every weight.
        """
        ...

    def rows(
        self, parts: Parts, shape: tuple[int, int], ids: Int[Tensor, " ..."], dtype: torch.dtype
    ) -> Float[Tensor, "... d_in"]:
        """Recover only the rows in `ids`, as an embedding reads them."""
        ...


def require_finite(weight: Tensor) -> None:
    """Raises ValueError where a weight holds NaN or infinity: its scale would poison a whole row or block."""
    # Two numbers tell it, and NaN shows in both: isfinite would make a dense copy of the largest weight.
    if not torch.isfinite(torch.stack(torch.aminmax(weight))).all():
        raise ValueError("the weight holds NaN or infinite values")
