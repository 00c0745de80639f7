"""Products of many rows with stored weights, as reading a prompt asks for them: many_rows.c for torch's tensors."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from jaxtyping import Float, Float32, Int8, Int64
from torch import Tensor

from summarizer.ops.compiled import kernels, library, place_of
from summarizer.ops.few_rows import LowRankPairs

SOURCE = Path(__file__).with_name("many_rows.c")
MOST_COLUMNS = 1 << 17
"""Of x: up to here the sums of its products hold in 32 bits."""


class _Product(ctypes.Structure):
    """`Product` of many_rows.c."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("m", ctypes.c_long),
        ("k", ctypes.c_long),
        ("n", ctypes.c_long),
        ("w", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("pair_scale", ctypes.c_void_p),
        ("trials", ctypes.c_long),
        ("dim", ctypes.c_long),
        ("apart", ctypes.c_void_p),
        ("aparts", ctypes.c_long),
        ("y", ctypes.c_void_p),
        ("in_bf16", ctypes.c_int),
        ("threads", ctypes.c_int),
    ]


def is_at_hand() -> bool:
    """Whether this machine has a processor and a compiler for it."""
    return library(SOURCE) is not None


def int8_product(
    x: Float[Tensor, "m d_in"],
    q: Int8[Tensor, "d_out d_in"],
    scale: Float32[Tensor, "d_out 1"],
    apart: Int64[Tensor, " apart"] | None,
    bias: Float[Tensor, " d_out"] | None = None,
    pairs: LowRankPairs | None = None,
) -> Float[Tensor, "m d_out"]:
    """x W^T + bias + the pairs' products in the precision of x, bf16 or fp32; W row-wise int8.

    x: rounded to whole numbers on each row's own grid, of 8 bits, and of 16 in the columns `apart` (None: in all).
    What is lost is x beyond these bits, and what the precision of y does not hold. Only where `is_at_hand`.
    """
    assert x.shape[1] <= MOST_COLUMNS
    # Bound to names: the kernel reads their memory after these lines.
    x, q, scale = x.contiguous(), q.contiguous(), scale.contiguous()
    apart = None if apart is None else apart.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    pairs = None if pairs is None else pairs.dense()
    y = torch.empty(len(x), len(q), dtype=x.dtype)
    product = _Product(
        x=place_of(x),
        m=len(x),
        k=x.shape[1],
        n=len(q),
        w=place_of(q),
        scale=place_of(scale),
        bias=place_of(bias),
        a=pairs and place_of(pairs.a),
        b=pairs and place_of(pairs.b),
        pair_scale=pairs and place_of(pairs.scale),
        trials=0 if pairs is None else pairs.a.shape[0],
        dim=0 if pairs is None else pairs.a.shape[1],
        apart=place_of(apart),
        aparts=0 if apart is None else len(apart),
        y=place_of(y),
        in_bf16=x.dtype == torch.bfloat16,
        threads=torch.get_num_threads(),
    )
    if kernels(SOURCE).many_rows_product(ctypes.byref(product)):
        raise MemoryError(f"no memory for {len(x)} rows of {x.shape[1]} numbers")
    return y


def column_absmax(x: Float[Tensor, "m d_in"]) -> Float32[Tensor, " d_in"]:
    """The largest absolute value of each column, in bf16 or fp32. Only where `is_at_hand`."""
    x = x.contiguous()
    absmax = torch.empty(x.shape[1])
    kernels(SOURCE).column_absmax(
        ctypes.c_void_p(place_of(x)),
        ctypes.c_long(x.shape[0]),
        ctypes.c_long(x.shape[1]),
        ctypes.c_int(x.dtype == torch.bfloat16),
        ctypes.c_void_p(place_of(absmax)),
        ctypes.c_int(torch.get_num_threads()),
    )
    return absmax
