"""A product of whole numbers for many rows, as reading a prompt asks for it: many_rows.c around `_int_mm`."""

from __future__ import annotations

from ctypes import c_int, c_long, c_void_p
from pathlib import Path

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

from summarizer.model.kernels.compiled import library

SOURCE = Path(__file__).with_name("many_rows.c")


def is_at_hand() -> bool:
    """Whether this machine has a processor and a compiler for it."""
    return library(SOURCE) is not None


def whole_number_product(
    x: Float[Tensor, "m d_in"], q: Int8[Tensor, "d_out d_in"], scale: Float32[Tensor, "d_out 1"], apart: int
) -> Float[Tensor, "m d_out"]:
    """x @ W.T in the precision of x, bf16 or fp32: most of x in int8, its `apart` largest columns in bf16.

    Only where `is_at_hand`.
    """
    c = library(SOURCE)
    assert c is not None, "is_at_hand() was not asked"
    x, q = x.contiguous(), q.contiguous()
    (m, k), n, threads = x.shape, len(q), c_int(torch.get_num_threads())
    in_bf16 = c_int(x.dtype == torch.bfloat16)
    absmax = torch.empty(k)
    c.column_absmax(_of(x), c_long(m), c_long(k), in_bf16, _of(absmax), threads)
    largest = absmax.topk(apart).indices
    keep = torch.ones(k).index_fill_(0, largest, 0.0)
    whole, steps = torch.empty(m, k, dtype=torch.int8), torch.empty(m)
    c.quantise_rows(_of(x), c_long(m), c_long(k), in_bf16, _of(keep), _of(whole), _of(steps), threads)
    columns = torch.empty(n, apart, dtype=torch.bfloat16)
    c.gather_columns(_of(q), c_long(n), c_long(k), _of(largest), c_long(apart), _of(columns), threads)
    beside = x[:, largest].to(torch.bfloat16) @ columns.t()
    sums = torch._int_mm(whole, q.t())  # exact, in int32
    y = torch.empty(m, n, dtype=x.dtype)
    scales = scale.contiguous()
    c.put_together(
        *(_of(part) for part in (sums, beside, steps, scales)), c_long(m), c_long(n), _of(y), in_bf16, threads
    )
    return y


def _of(tensor: Tensor) -> c_void_p:
    return c_void_p(tensor.data_ptr())
