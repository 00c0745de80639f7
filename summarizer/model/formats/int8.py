"""Row-wise absmax int8, weight-only: one fp32 scale for each output row.

Source: absmax quantisation, Dettmers et al. 2022 (arXiv:2208.07339), without the outlier columns, which couple
the rows of a batch: there, one trial's activations change another's result.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, Int, Int8
from torch import Tensor

from summarizer.model.formats.protocol import Parts, require_finite

LEVELS = 127
"""Steps on each side of zero; -128 is left out so that the grid is symmetric."""


def quantise(
    weight: Float[Tensor, "d_out d_in"],
) -> tuple[Int8[Tensor, "d_out d_in"], Float32[Tensor, "d_out 1"]]:
    """The nearest point of each row's grid, and the grid's step. A row of zeros gets a step of 1."""
    absmax = weight.abs().amax(dim=1, keepdim=True).float()
    scale = torch.where(absmax > 0, absmax / LEVELS, torch.ones_like(absmax))
    return (weight.float() / scale).round_().clamp_(-LEVELS, LEVELS).to(torch.int8), scale


def dequantise(
    q: Int8[Tensor, "... d_in"], scale: Float32[Tensor, "... 1"], dtype: torch.dtype
) -> Float[Tensor, "... d_in"]:
    """Recover weights (or some rows of them) from row-wise absmax int8. scale: weight units per step."""
    # The product is taken in fp32: a scale rounded to bf16 would shift every weight of its row the same way.
    return torch.mul(q, scale).to(dtype)


class _RowwiseInt8:
    name = "int8"
    version = 1

    def quantise(self, weight: Tensor) -> dict[str, Tensor]:
        require_finite(weight)
        q, scale = quantise(weight)
        return {"q": q, "scale": scale}

    def dequantise(self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        return dequantise(parts["q"], parts["scale"], dtype)

    def rows(
        self, parts: Parts, shape: tuple[int, int], ids: Int[Tensor, "..."], dtype: torch.dtype
    ) -> Tensor:
        return dequantise(parts["q"][ids], parts["scale"][ids], dtype)


FORMAT = _RowwiseInt8()
