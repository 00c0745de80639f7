"""4-bit NormalFloat over blocks of 64 weights, two to a byte.

Source: QLoRA, Dettmers et al. 2023 (arXiv:2305.14314), as bitsandbytes has it; the absmax stays in fp32.
"""

from __future__ import annotations

import bitsandbytes.functional as bnb
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from summarizer.model.formats.blockwise8 import flat_positions
from summarizer.model.formats.protocol import Parts, require_finite

BLOCK = 64
"""Weights that share one absmax. Source: QLoRA, section 2."""


class _NormalFloat4:
    name = "nf4"
    version = 1

    def quantise(self, weight: Tensor) -> dict[str, Tensor]:
        require_finite(weight)
        packed, state = bnb.quantize_4bit(weight.float().contiguous(), blocksize=BLOCK, quant_type="nf4")
        return {"q": packed.reshape(-1), "absmax": state.absmax, "code": state.code}

    def dequantise(self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        state = bnb.QuantState(
            absmax=parts["absmax"],
            shape=torch.Size(shape),
            code=parts["code"],
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=dtype,
        )
        full = bnb.dequantize_4bit(parts["q"].reshape(-1, 1), quant_state=state)
        return full.reshape(shape)

    def rows(
        self, parts: Parts, shape: tuple[int, int], ids: Int[Tensor, "..."], dtype: torch.dtype
    ) -> Tensor:
        return lookup(flat_positions(ids, shape[1]), parts["q"], parts["absmax"], parts["code"]).to(dtype)


def lookup(
    positions: Int[Tensor, "..."],
    packed: UInt8[Tensor, " bytes"],
    absmax: Float[Tensor, " blocks"],
    code: Float[Tensor, " 16"],
) -> Float[Tensor, "..."]:
    """Recover single weights by their place in the flattened matrix. The first of a pair is the high half-byte."""
    byte = packed[positions // 2].long()
    nibble = torch.where(positions % 2 == 0, byte >> 4, byte & 15)
    return code[nibble] * absmax[positions // BLOCK]


FORMAT = _NormalFloat4()
