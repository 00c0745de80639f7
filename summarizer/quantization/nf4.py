"""4-bit NormalFloat over blocks of 64 weights, two to a byte.

Source: QLoRA, Dettmers et al. 2023 (arXiv:2305.14314), as bitsandbytes has it; the absmax stays in fp32.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from summarizer import compat
from summarizer.ops import decode_gemm, prefill_gemm
from summarizer.ops.decode_gemm import Epilogue
from summarizer.quantization.blockwise8 import flat_positions
from summarizer.quantization.protocol import Parts, PartShapes, WeightFormat, require_finite

bnb = compat.import_without_compiling("bitsandbytes.functional")
BLOCK = 64
"""Weights that share one absmax. Source: QLoRA, section 2."""
WEIGHTS_AT_ONCE = 1 << 22
"""A multiple of BLOCK. bitsandbytes' quantizer on the CPU needs several dense copies of what it is given."""


class _NormalFloat4(WeightFormat):
    name = "nf4"
    version = 1
    decode_rows = 128  # a dense copy is as fast from 180 rows on (two cores with AVX-512, bf16 products)

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        require_finite(weight)
        packed, absmax = [], []
        dense = weight.contiguous().reshape(-1)
        for start in range(0, dense.numel(), WEIGHTS_AT_ONCE):
            flat = dense[start : start + WEIGHTS_AT_ONCE]
            q, state = bnb.quantize_4bit(flat.float(), blocksize=BLOCK, quant_type="nf4")
            packed.append(q.reshape(-1))
            absmax.append(state.absmax)
        return {"q": torch.cat(packed), "absmax": torch.cat(absmax), "code": state.code}

    def stored_parts(self, shape: tuple[int, int], dtype: torch.dtype) -> PartShapes:
        count = shape[0] * shape[1]
        return {
            "q": ((math.ceil(count / 2),), torch.uint8),
            "absmax": ((math.ceil(count / BLOCK),), torch.float32),
            "code": ((16,), torch.float32),
        }

    def dequantize(self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        # bitsandbytes 0.50.2 on the CPU gives wrong weights where rows are a multiple of 16 long but not of a
        # block, and leaves its kernel for torch.compile where they are odd. Blocks ignore rows: the bytes are
        # read as rows of one block each, or all as one row.
        count = 2 * parts["q"].numel()
        laid = (count // BLOCK, BLOCK) if count % BLOCK == 0 else (1, count)
        state = bnb.QuantState(
            absmax=parts["absmax"],
            shape=torch.Size(laid),
            code=parts["code"],
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=dtype,
        )
        full: Tensor = bnb.dequantize_4bit(parts["q"].reshape(-1, 1), quant_state=state)
        return full.reshape(-1)[: shape[0] * shape[1]].reshape(shape)

    def decode_gemm(
        self, x: Tensor, parts: Parts, shape: tuple[int, int], epilogue: Epilogue
    ) -> Tensor | None:
        if shape[1] % BLOCK or not decode_gemm.supports(x, parts["q"], decode_gemm.WHOLE_NUMBERS):
            return None
        return decode_gemm.nf4_gemm(x, parts["q"], parts["absmax"], parts["code"], epilogue)

    def prefill_gemm(
        self, x: Tensor, parts: Parts, shape: tuple[int, int], epilogue: Epilogue
    ) -> Tensor | None:
        if shape[1] % BLOCK:
            return None
        return prefill_gemm.nf4_gemm(x, parts["q"], parts["absmax"], parts["code"], epilogue)

    def rows(
        self, parts: Parts, shape: tuple[int, int], ids: Int[Tensor, " ..."], dtype: torch.dtype
    ) -> Tensor:
        return lookup(flat_positions(ids, shape[1]), parts["q"], parts["absmax"], parts["code"]).to(dtype)


def lookup(
    positions: Int[Tensor, " ..."],
    packed: UInt8[Tensor, " bytes"],
    absmax: Float[Tensor, " blocks"],
    code: Float[Tensor, " 16"],
) -> Float[Tensor, " ..."]:
    """Recover single weights by their place in the flattened matrix. The first of a pair is the high half."""
    byte = packed[positions // 2].long()
    nibble = torch.where(positions % 2 == 0, byte >> 4, byte & 15)
    return code[nibble] * absmax[positions // BLOCK]


FORMAT = _NormalFloat4()
