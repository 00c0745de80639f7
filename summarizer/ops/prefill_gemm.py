"""Matrix products of many rows with stored int8 or nf4 weights on a CPU, as reading a prompt asks for them.

Both operands are whole numbers, so that no dense copy of the weights is made. Each row of x is rounded on a grid of
its own: of 16 bits, which loses next to nothing; or, within `int8_activations`, of 8 bits but for the largest
columns. nf4 weights are multiplied so within `int8_activations` alone, since they are rounded to 8 bits for it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Float, Float32, Int8, Int64, UInt8
from torch import Tensor

from summarizer import compat
from summarizer.ops import native
from summarizer.ops.decode_gemm import NOTHING_ADDED, Epilogue, is_decode, is_in_place

SOURCE = "prefill_gemm.c"
MOST_COLUMNS = 1 << 17
"""Columns of x up to which the sums of its products hold in 32 bits."""
PREFILL_ROWS = 32
"""From here on quantizing the inputs costs little beside the product."""
LARGEST_COLUMNS = 16
"""One in so many columns of the inputs keeps 16 bits. KL to fp32 at summary tokens, SmolLM2-135M on four real rows:
bf16 products 0.0016 nats, whole numbers with none apart 0.022, 1 in 64 0.0070, 1 in 32 0.0041, 1 in 16 0.0033, all
(what a prompt is read with otherwise, where prefill_gemm.c is compiled, at half the speed) 0.0006. With adapters
(experiments/generation_speed), 16 tokens of four prompts: 1 in 32 0.0057, 1 in 16 0.0046, all 0.0039, OpenVINO's
int8 0.0055."""
LEVELS = 127
"""Steps on each side of zero, as of the weights."""
WIDE_LEVELS = 127 * 256 + 127
"""The same of the largest columns: what two signed bytes hold."""
SMALLEST_STEP = 1e-30
"""Of a row's grid; a row of smaller numbers counts as zeros."""


# --- when ---------------------------------------------------------------------------------------------------------

_int8_activations: ContextVar[bool] = ContextVar("most inputs of products are rounded to int8", default=False)


@contextmanager
def int8_activations() -> Iterator[None]:
    """Within the block, a CPU's products of many rows are of whole numbers: most inputs are rounded to int8.

    About twice as fast where the processor has VNNI, for an error of its own (LARGEST_COLUMNS). For reading
    prompts; training never does.
    """
    token = _int8_activations.set(True)
    try:
        yield
    finally:
        _int8_activations.reset(token)


def is_prefill_in_int8(rows: Float[Tensor, "m d_in"]) -> bool:
    """Whether the rows, on a CPU, are to be rounded to int8."""
    return (
        len(rows) >= PREFILL_ROWS
        and rows.device.type == "cpu"
        and rows.dtype in (torch.bfloat16, torch.float32)
        and not torch.compiler.is_compiling()
        and _int8_activations.get()
    )


# --- products -----------------------------------------------------------------------------------------------------


def int8_gemm(
    x: Float[Tensor, "m d_in"],
    q: Int8[Tensor, "d_out d_in"],
    scale: Float32[Tensor, "d_out 1"],
    epilogue: Epilogue,
) -> Float[Tensor, "m d_out"] | None:
    """x W^T and its epilogue, in one kernel. None where there is none, or it is not for x."""
    rounded = is_prefill_in_int8(x)
    in_place = is_in_place(x) and not is_decode(x)
    if not (rounded or in_place) or not native.available(SOURCE):
        return None
    return int8_gemm_in_c(x, q, scale, count_apart(x) if rounded else None, epilogue)


def nf4_gemm(
    x: Float[Tensor, "m d_in"],
    q: UInt8[Tensor, " half"],
    absmax: Float32[Tensor, " blocks"],
    code: Float32[Tensor, " 16"],
    epilogue: Epilogue,
) -> Float[Tensor, "m d_out"] | None:
    """`int8_gemm` of nf4 weights, whose rows are of whole blocks, each rounded to a grid of int8 as it is read."""
    if not (is_prefill_in_int8(x) and native.available(SOURCE)):
        return None
    d_out = 2 * len(q) // x.shape[1]
    return _in_c(x, d_out, count_apart(x), epilogue, w=q, absmax=absmax, code=code)


def whole_number_gemm(
    x: Float[Tensor, "m d_in"], q: Int8[Tensor, "d_out d_in"], scale: Float32[Tensor, "d_out 1"]
) -> Float[Tensor, "m d_out"]:
    """x W^T in x's precision: each row of x on its own grid of int8, and of 16 bits in its largest columns.

    A few columns are far larger than the rest in any trained model, and would leave the rest few steps of the grid.
    Source: LLM.int8(), Dettmers et al. 2022 (arXiv:2208.07339), a fixed share of columns for its threshold, and
    with more steps of the same grid for these, instead of numbers in 16 bits.
    """
    if native.available(SOURCE):
        return int8_gemm_in_c(x, q, scale, count_apart(x))
    return whole_number_gemm_by_torch(x, q, scale, largest_columns(x))


def whole_number_gemm_by_torch(
    x: Float[Tensor, "m d_in"],
    q: Int8[Tensor, "d_out d_in"],
    scale: Float32[Tensor, "d_out 1"],
    largest: Int64[Tensor, " apart"],
) -> Float[Tensor, "m d_out"]:
    """`whole_number_gemm` by torch's own operators. largest: the columns of x that keep 16 bits."""
    dtype, x = x.dtype, x.float()
    size = x.abs()
    step = torch.maximum(
        size.index_fill(1, largest, 0.0).amax(dim=1, keepdim=True) / LEVELS,
        size.amax(dim=1, keepdim=True) / WIDE_LEVELS,
    )
    step.masked_fill_(~x.isfinite().all(dim=1, keepdim=True), torch.nan)
    whole = (x * torch.where(step > SMALLEST_STEP, 1 / step, 0.0)).nan_to_num_(0.0).round_().to(torch.int32)
    high = (whole + 128) >> 8  # 256 high + low, each of a signed byte
    low = whole - (high << 8)
    sums = compat.int8_mm(low.to(torch.int8), q.t()).float()  # exact, in int32
    apart = compat.int8_mm(high[:, largest].to(torch.int8), q[:, largest].t())
    return (sums + 256 * apart.float()).mul_(step).mul_(scale.t()).to(dtype)


def count_apart(x: Float[Tensor, "m d_in"]) -> int:
    """How many columns of x keep 16 bits: one in LARGEST_COLUMNS."""
    return max(x.shape[1] // LARGEST_COLUMNS, 1)


def largest_columns(x: Float[Tensor, "m d_in"]) -> Int64[Tensor, " apart"]:
    """The columns of x that hold its largest numbers."""
    count = count_apart(x)
    if native.available(SOURCE):
        return largest_columns_in_c(x, count)
    return x.float().abs().amax(dim=0).topk(count).indices.sort().values


# --- in C ---------------------------------------------------------------------------------------------------------


class _Product(ctypes.Structure):
    """`Product` of prefill_gemm.c."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("m", "k", "n")),
        *(
            (name, ctypes.c_void_p)
            for name in ("w", "scale", "absmax", "code", "bias", "a", "b", "pair_scale")
        ),
        *((name, ctypes.c_long) for name in ("trials", "dim")),
        ("aparts", ctypes.c_long),
        ("y", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("in_bf16", "threads")),
    ]


def int8_gemm_in_c(
    x: Float[Tensor, "m d_in"],
    q: Int8[Tensor, "d_out d_in"],
    scale: Float32[Tensor, "d_out 1"],
    apart: int | None,
    epilogue: Epilogue = NOTHING_ADDED,
) -> Float[Tensor, "m d_out"]:
    """x W^T and its epilogue in the precision of x, bf16 or fp32; W row-wise int8.

    x: rounded to whole numbers on each row's own grid, of 8 bits, and of 16 in so many of its largest columns as
    `apart` says (None: in all).
    What is lost is x beyond these bits, and what the precision of y does not hold. Only where `available`.
    """
    return _in_c(x, len(q), apart, epilogue, w=q, scale=scale)


def _in_c(
    x: Float[Tensor, "m d_in"],
    d_out: int,
    apart: int | None,
    epilogue: Epilogue,
    **weights: Tensor,
) -> Float[Tensor, "m d_out"]:
    """weights: what `Product` of prefill_gemm.c names as such."""
    assert x.shape[1] <= MOST_COLUMNS
    # Bound to names: the kernel reads their memory after these lines.
    x, weights = x.contiguous(), {name: part.contiguous() for name, part in weights.items()}
    bias, pairs = epilogue.dense()
    y = torch.empty(len(x), d_out, dtype=x.dtype)
    given = native.structure(
        _Product,
        x=x,
        m=len(x),
        k=x.shape[1],
        n=d_out,
        **weights,
        bias=bias,
        a=pairs and pairs.a,
        b=pairs and pairs.b,
        pair_scale=pairs and pairs.scale,
        trials=0 if pairs is None else pairs.a.shape[0],
        dim=0 if pairs is None else pairs.a.shape[1],
        aparts=apart or 0,
        y=y,
        in_bf16=x.dtype == torch.bfloat16,
        threads=torch.get_num_threads(),
    )
    if native.kernel(SOURCE, "prefill_gemm")(ctypes.byref(given)):
        raise MemoryError(f"no memory for {len(x)} rows of {x.shape[1]} numbers")
    return y


def largest_columns_in_c(x: Float[Tensor, "m d_in"], count: int) -> Int64[Tensor, " apart"]:
    """The columns of x, in bf16 or fp32, with the largest absolute values. Only where `available`."""
    x = x.contiguous()
    absmax, columns = torch.empty(x.shape[1]), torch.empty(count, dtype=torch.int64)
    native.run(SOURCE, "largest_columns", x, *x.shape, x.dtype == torch.bfloat16, count, absmax, columns)
    return columns
