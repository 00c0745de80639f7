"""The Triton kernels of decode_gemm.py: products of row-wise int8 weights, each byte of which is read once.

Shapes: x (m, k), q (n, k), scale (n), y (m, n); of an adapter's pairs a (trials, r, k), b (trials, r, n).
"""

# Triton's own language: its compiler gives every name a type of its own.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def one_row(
    x_ptr,
    q_ptr,
    scale_ptr,
    bias_ptr,
    a_ptr,
    b_ptr,
    pair_scale_ptr,
    narrow_ptr,
    y_ptr,
    n,
    k,
    r,
    has_bias: tl.constexpr,
    has_pairs: tl.constexpr,
    narrow_here: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    block_r: tl.constexpr,
    stages: tl.constexpr,
):
    """m = 1: multiplied and summed in fp32. narrow_here: x A^T of up to block_r is made by every program anew."""
    columns = tl.program_id(0) * block_n + tl.arange(0, block_n)
    inside = columns < n
    depth = tl.arange(0, block_k)
    pair = tl.arange(0, block_r)
    # Rows of the largest head times its width pass what 32 bits count.
    q_tile = q_ptr + columns.to(tl.int64)[:, None] * k + depth[None, :]
    sums = tl.zeros((block_n, block_k), tl.float32)
    narrow_sums = tl.zeros((block_r, block_k), tl.float32)
    for start in tl.range(0, k, block_k, num_stages=stages):
        left = depth < k - start
        x = tl.load(x_ptr + start + depth, mask=left, other=0.0).to(tl.float32)
        q = tl.load(q_tile + start, mask=inside[:, None] & left[None, :], other=0)
        sums += q.to(tl.float32) * x[None, :]
        if narrow_here:
            own = (pair < r)[:, None] & left[None, :]
            a = tl.load(a_ptr + pair[:, None] * k + (start + depth)[None, :], mask=own, other=0.0)
            narrow_sums += a * x[None, :]
    y = tl.sum(sums, axis=1) * tl.load(scale_ptr + columns, mask=inside, other=0.0)
    if has_bias:
        y += tl.load(bias_ptr + columns, mask=inside, other=0.0)
    if narrow_here:
        narrow = tl.sum(narrow_sums, axis=1) * tl.load(pair_scale_ptr)
        own = (pair < r)[:, None] & inside[None, :]
        b = tl.load(b_ptr + pair[:, None] * n + columns[None, :], mask=own, other=0.0)
        y += tl.sum(narrow[:, None] * b, axis=0)
    elif has_pairs:
        for i in range(r):
            y += tl.load(narrow_ptr + i) * tl.load(b_ptr + i * n + columns, mask=inside, other=0.0)
    tl.store(y_ptr + columns, y, mask=inside)


@triton.jit
def some_rows(
    x_ptr,
    q_ptr,
    scale_ptr,
    bias_ptr,
    b_ptr,
    narrow_ptr,
    y_ptr,
    m,
    n,
    k,
    r,
    rows_of_trial,
    has_bias: tl.constexpr,
    has_pairs: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    stages: tl.constexpr,
):
    """m <= block_m, on the matrix units, with the weights as the larger side, y^T = W x^T.

    int8 is exact in 16 bits. x in fp32 is taken apart into three numbers of bf16, whose sum it is.
    """
    columns = tl.program_id(0) * block_n + tl.arange(0, block_n)
    rows = tl.arange(0, block_m)
    inside, asked = columns < n, rows < m
    depth = tl.arange(0, block_k)
    q_tile = q_ptr + columns.to(tl.int64)[:, None] * k + depth[None, :]
    x_tile = x_ptr + rows[None, :] * k + depth[:, None]
    sums = tl.zeros((block_n, block_m), tl.float32)
    for start in tl.range(0, k, block_k, num_stages=stages):
        left = depth < k - start
        q = tl.load(q_tile + start, mask=inside[:, None] & left[None, :], other=0)
        x = tl.load(x_tile + start, mask=left[:, None] & asked[None, :], other=0.0)
        if x_ptr.dtype.element_ty == tl.float32:
            weights = q.to(tl.bfloat16)
            high = x.to(tl.bfloat16)
            rest = x - high.to(tl.float32)
            middle = rest.to(tl.bfloat16)
            low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
            sums = tl.dot(weights, high, sums)
            sums = tl.dot(weights, middle, sums)
            sums = tl.dot(weights, low, sums)
        else:
            sums = tl.dot(q.to(x.dtype), x, sums)
    y = sums * tl.load(scale_ptr + columns, mask=inside, other=0.0)[:, None]
    if has_bias:
        y += tl.load(bias_ptr + columns, mask=inside, other=0.0)[:, None]
    both = inside[:, None] & asked[None, :]
    if has_pairs:
        first = (rows // rows_of_trial) * r
        for i in range(r):
            narrow = tl.load(narrow_ptr + rows * r + i, mask=asked, other=0.0)
            b = tl.load(b_ptr + (first + i)[None, :] * n + columns[:, None], mask=both, other=0.0)
            y += narrow[None, :] * b
    tl.store(y_ptr + rows.to(tl.int64)[None, :] * n + columns[:, None], y, mask=both)


@triton.jit
def narrow_rows(
    x_ptr,
    a_ptr,
    pair_scale_ptr,
    narrow_ptr,
    k,
    r,
    rows_of_trial,
    block_r: tl.constexpr,
    block_k: tl.constexpr,
):
    """scale x A^T of a row and block_r of its trial's pairs, in fp32: (m, r)."""
    row = tl.program_id(0)
    trial = row // rows_of_trial
    pair = tl.program_id(1) * block_r + tl.arange(0, block_r)
    depth = tl.arange(0, block_k)
    a_tile = a_ptr + (trial * r + pair)[:, None] * k + depth[None, :]
    sums = tl.zeros((block_r, block_k), tl.float32)
    for start in range(0, k, block_k):
        left = depth < k - start
        x = tl.load(x_ptr + row * k + start + depth, mask=left, other=0.0).to(tl.float32)
        sums += tl.load(a_tile + start, mask=(pair < r)[:, None] & left[None, :], other=0.0) * x[None, :]
    narrow = tl.sum(sums, axis=1) * tl.load(pair_scale_ptr + trial)
    tl.store(narrow_ptr + row * r + pair, narrow, mask=pair < r)
