"""Products of many rows with dense matrices, as training takes them, without a graph.

In fp32 on a CPU they are oneDNN's, where torch has it, and not those of torch's BLAS, which is MKL in the wheels of
x86: on processors of AMD, MKL leaves a part of their rate. Measured on two cores of a Zen 4, which do at most 236
GFLOP/s, best of half a second each: 512 rows, 576 -> 576, backward 201 by MKL and 219 by oneDNN; 256 rows, 576 ->
1536, 147 and 199; 1536 -> 576, 152 and 191. In bf16 torch takes oneDNN by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from summarizer import compat
from summarizer.ops import native


def supports(x: Tensor) -> bool:
    """Whether a product of x is oneDNN's by way of `compat.fp32_linear`."""
    return native.is_eager(x, torch.float32) and x.numel() > 0


def linear(x: Float[Tensor, "... k"], matrix: Float[Tensor, "n k"]) -> Float[Tensor, "... n"]:
    """x @ matrix.T, in their precision. matrix: may be a transposed view, which is multiplied as it lies."""
    if not supports(x):
        return F.linear(x, matrix)
    y: Tensor = torch.ops.summarizer.fp32_linear(x, matrix)
    return y


def _shaped(x: Tensor, matrix: Tensor) -> Tensor:
    assert x.dtype == matrix.dtype == torch.float32, "both in fp32"
    return x.new_empty(*x.shape[:-1], matrix.shape[0])


native.define_operator("fp32_linear(Tensor x, Tensor matrix) -> Tensor", compat.fp32_linear, _shaped)


@register_flop_formula(torch.ops.summarizer.fp32_linear)
def _flops(x: Sequence[int], matrix: Sequence[int], *more: object, **named: object) -> int:
    """Two operations for each number of x and row of the matrix."""
    flops = 2 * matrix[0]
    for size in x:
        flops *= size
    return flops
