"""Dynamic 8-bit map over blocks of 4,096 weights: what the reference experiment stored its base in.

Source: block-wise dynamic quantization, Dettmers et al. 2021 (arXiv:2110.02861), as bitsandbytes has it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from summarizer import compat
from summarizer.ops import decode_gemm
from summarizer.ops.decode_gemm import Epilogue
from summarizer.quantization.protocol import Parts, PartShapes, WeightFormat, require_finite

bnb = compat.import_without_compiling("bitsandbytes.functional")
BLOCK = 4096
"""Weights that share one absmax. Source: the reference experiment, and bitsandbytes' default."""


class _DynamicBlocks(WeightFormat):
    name = "blockwise8"
    version = 1
    decode_rows = 128  # a dense copy is as fast from 180 rows on (two cores with AVX-512, bf16 products)

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        require_finite(weight)
        q, state = bnb.quantize_blockwise(weight.float().contiguous(), blocksize=BLOCK)
        return {"q": q, "absmax": state.absmax, "code": state.code}

    def stored_parts(self, shape: tuple[int, int], dtype: torch.dtype) -> PartShapes:
        blocks = math.ceil(shape[0] * shape[1] / BLOCK)
        return {
            "q": (shape, torch.uint8),
            "absmax": ((blocks,), torch.float32),
            "code": ((256,), torch.float32),
        }

    def dequantize(self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        full: Tensor = bnb.dequantize_blockwise(
            parts["q"], absmax=parts["absmax"], code=parts["code"], blocksize=BLOCK
        )
        return full.reshape(shape).to(dtype)

    def decode_gemm(
        self, x: Tensor, parts: Parts, shape: tuple[int, int], epilogue: Epilogue
    ) -> Tensor | None:
        if not decode_gemm.supports(x, parts["q"], decode_gemm.CODED):
            return None
        return decode_gemm.blockwise8_gemm(x, parts["q"], parts["absmax"], parts["code"], epilogue)

    def rows(
        self, parts: Parts, shape: tuple[int, int], ids: Int[Tensor, " ..."], dtype: torch.dtype
    ) -> Tensor:
        positions = flat_positions(ids, shape[1])
        return lookup(parts["q"][ids], positions, parts["absmax"], parts["code"]).to(dtype)


def flat_positions(ids: Int[Tensor, " ..."], d_in: int) -> Int[Tensor, "... d_in"]:
    """Where the weights of the rows `ids` lie in the flattened matrix, whose blocks may span rows."""
    return ids[..., None].long() * d_in + torch.arange(d_in, device=ids.device)


def lookup(
    q: UInt8[Tensor, " ..."],
    positions: Int[Tensor, " ..."],
    absmax: Float[Tensor, " blocks"],
    code: Float[Tensor, " 256"],
) -> Float[Tensor, " ..."]:
    """Recover single weights by their code and the absmax of the block that they lie in."""
    return code[q.long()] * absmax[positions // BLOCK]


FORMAT = _DynamicBlocks()
