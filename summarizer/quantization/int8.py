"""Row-wise absmax int8, weight-only: one fp32 scale for each output row.

Source: absmax quantization, Dettmers et al. 2022 (arXiv:2208.07339), without the outlier columns, which
couple the rows of a batch: there, one trial's activations change another's result.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, Int, Int8
from torch import Tensor

from summarizer.ops import decode_gemm, prefill_gemm
from summarizer.ops.decode_gemm import Epilogue
from summarizer.ops.elementwise import scale_columns_
from summarizer.quantization.protocol import Gain, Parts, PartShapes, WeightFormat, require_finite

LEVELS = 127
"""Steps on each side of zero; -128 is left out so that the grid is symmetric."""
WEIGHTS_AT_ONCE = 1 << 20
"""How many weights are dense at a time: bounds what quantizing the largest matrix adds to a load's peak."""


def quantize(
    weight: Float[Tensor, "d_out d_in"],
) -> tuple[Int8[Tensor, "d_out d_in"], Float32[Tensor, "d_out 1"]]:
    """The nearest point of each row's grid, and the grid's step. A row of zeros gets a step of 1."""
    q = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(weight.shape[0], 1, device=weight.device)
    rows_at_once = max(WEIGHTS_AT_ONCE // weight.shape[1], 1)
    for start in range(0, weight.shape[0], rows_at_once):
        rows = weight[start : start + rows_at_once].float()
        step = rows.abs().amax(dim=1, keepdim=True) / LEVELS
        step = torch.where(step > 0, step, torch.ones_like(step))
        scale[start : start + rows_at_once] = step
        q[start : start + rows_at_once] = (rows / step).round_().clamp_(-LEVELS, LEVELS)
    return q, scale


def dequantize(
    q: Int8[Tensor, "... d_in"], scale: Float32[Tensor, "... 1"], dtype: torch.dtype
) -> Float[Tensor, "... d_in"]:
    """Recover weights (or some rows of them) from row-wise absmax int8. scale: weight units per step."""
    # The product is taken in fp32: a scale rounded to bf16 would shift every weight of its row the same way.
    return torch.mul(q, scale).to(dtype)


def matmul_on_cpu(
    x: Float[Tensor, "... d_in"], q: Int8[Tensor, "d_out d_in"], scale: Float32[Tensor, "d_out 1"]
) -> Float[Tensor, "... d_out"] | None:
    """x @ W.T for few rows, or in whole numbers; None where the dense way is the better one, or x is no CPU's."""
    rows, y = x.reshape(-1, x.shape[-1]), None
    if decode_gemm.is_decode(rows):
        y = decode_gemm.int8_gemm_by_torch(rows, q, scale)
    if y is None and prefill_gemm.is_prefill_in_int8(rows):
        y = prefill_gemm.whole_number_gemm(rows, q, scale)
    return None if y is None else y.reshape(*x.shape[:-1], -1)


class _RowwiseInt8(WeightFormat):
    name = "int8"
    version = 1

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        require_finite(weight)
        q, scale = quantize(weight)
        return {"q": q, "scale": scale}

    def stored_parts(self, shape: tuple[int, int], dtype: torch.dtype) -> PartShapes:
        return {"q": (shape, torch.int8), "scale": ((shape[0], 1), torch.float32)}

    def dequantize(self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        return dequantize(parts["q"], parts["scale"], dtype)

    def factors(
        self, parts: Parts, shape: tuple[int, int], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        if dtype == torch.float16:  # whose largest number, 65,504, a sum of unscaled products can pass
            return self.dequantize(parts, shape, dtype), None
        # bf16 holds every whole number up to 256, so that q loses nothing; and a plain conversion takes a
        # twentieth of the time of a product with the scale (measured on a CPU, 8192 x 320).
        return parts["q"].to(dtype), parts["scale"].squeeze(1)

    def matmul(self, x: Tensor, parts: Parts, shape: tuple[int, int], gain: Gain = None) -> Tensor:
        y = matmul_on_cpu(x, parts["q"], parts["scale"])
        if y is None:
            return super().matmul(x, parts, shape, gain)
        return y if gain is None else scale_columns_(y, gain)

    def decode_gemm(
        self, x: Tensor, parts: Parts, shape: tuple[int, int], epilogue: Epilogue
    ) -> Tensor | None:
        q, scale = parts["q"], parts["scale"]
        if x.device.type != "cpu":
            known = decode_gemm.triton_available()
            return decode_gemm.int8_gemm_on_gpu(x, q, scale, epilogue) if known else None
        known = decode_gemm.supports(x, q, decode_gemm.WHOLE_NUMBERS)
        return decode_gemm.int8_gemm(x, q, scale, epilogue) if known else None

    def prefill_gemm(
        self, x: Tensor, parts: Parts, shape: tuple[int, int], epilogue: Epilogue
    ) -> Tensor | None:
        return prefill_gemm.int8_gemm(x, parts["q"], parts["scale"], epilogue)

    def rows(
        self, parts: Parts, shape: tuple[int, int], ids: Int[Tensor, " ..."], dtype: torch.dtype
    ) -> Tensor:
        return dequantize(parts["q"][ids], parts["scale"][ids], dtype)


FORMAT = _RowwiseInt8()
