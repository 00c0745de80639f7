"""Products of few rows with stored int8 weights on a card, each weight read once and as the byte that it is."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

from summarizer.ops.few_rows import LowRankPairs
from summarizer.ops.operators import define
from summarizer.ops.triton_sizes import power_of_two

PAIRS_IN_EVERY_PROGRAM = 4
"""Up to this dim every program of one row's product multiplies x with A itself, in fp32 from the card's cache: at
half the bytes of its weights or less it costs less than a launch of its own."""
OLDEST_CARD = (8, 0)
"""Its compute capability: older ones have no products in bf16."""
SCHEMA = (
    "int8_rows(Tensor x, Tensor q, Tensor scale, Tensor? bias, Tensor? a, Tensor? b, Tensor? pair_scale)"
    " -> Tensor"
)

log = logging.getLogger(__name__)


@lru_cache
def is_at_hand() -> bool:
    """Whether triton is installed and runs a kernel on the current card; if not, the log says so once, and why."""
    if importlib.util.find_spec("triton") is None:
        log.warning(
            "triton is not installed: int8 weights are made dense for each token, which is far slower"
        )
        return False
    if torch.cuda.get_device_capability() < OLDEST_CARD:
        log.warning("int8 weights are made dense for each token on a card before Ampere, which is far slower")
        return False
    card = torch.device("cuda")
    ones = torch.ones(1, 16, dtype=torch.int8, device=card)
    try:
        y = launch(ones.float(), ones, torch.ones(1, 1, device=card), None, None, None, None)
        works = y.item() == 16
        told = f"16 ones have the sum {y.item()}"
    # Triton compiles a launcher with the system's C compiler, which it may not find, or not with Python's headers.
    except (RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        works, told = False, str(error)
    if not works:
        log.warning("triton does not run here, int8 weights are made dense for each token: %s", told)
    return works


def int8_product(
    x: Float[Tensor, "m d_in"],
    q: Int8[Tensor, "d_out d_in"],
    scale: Float32[Tensor, "d_out 1"],
    bias: Float[Tensor, " d_out"] | None = None,
    pairs: LowRankPairs | None = None,
) -> Float32[Tensor, "m d_out"]:
    """x W^T + bias + the pairs' products, summed in fp32; the products of x's own 16 or 32 bits."""
    parts = (None, None, None) if pairs is None else (pairs.a, pairs.b, pairs.scale)
    y: Tensor = _operator()(x, q, scale, bias, *parts)
    return y


def launch(
    x: Tensor,
    q: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    pair_scale: Tensor | None,
) -> Tensor:
    """The product itself, where triton can run: on a card, or interpreted."""
    m, k = x.shape
    n = q.shape[0]
    # What is given is dense as it lies but for a view of x; a part that is absent is never read.
    x, q = x.contiguous(), q.contiguous()
    y = torch.empty(m, n, dtype=torch.float32, device=x.device)
    bias = None if bias is None else bias.float().contiguous()
    if a is None or b is None or pair_scale is None:
        trials, r, a, b, pair_scale = 1, 0, x, x, x
    else:
        (trials, r), a, b, pair_scale = a.shape[:2], a.contiguous(), b.contiguous(), pair_scale.contiguous()
    rows_of_trial = m // trials
    narrow_here = m == 1 and 0 < r <= PAIRS_IN_EVERY_PROGRAM
    narrow = y if r == 0 or narrow_here else _narrow(x, a, pair_scale, r, rows_of_trial)
    given: dict[str, Any] = {"has_bias": bias is not None, "has_pairs": r > 0}
    bias = y if bias is None else bias
    blocks = blocks_for(m, n, k, x.dtype)
    grid = (-(-n // blocks["block_n"]),)
    kernels = _kernels()
    if m == 1:
        given |= {"narrow_here": narrow_here, "block_r": power_of_two(r) if narrow_here else 1}
        kernels.one_row[grid](x, q, scale, bias, a, b, pair_scale, narrow, y, n, k, r, **given, **blocks)
    else:
        kernels.some_rows[grid](x, q, scale, bias, b, narrow, y, m, n, k, r, rows_of_trial, **given, **blocks)
    return y


def blocks_for(m: int, n: int, k: int, dtype: torch.dtype) -> dict[str, int]:
    """What one program computes, from shapes alone, so that nothing is tried out while a graph is captured.

    One row: 16 rows of 4,096 weights make 256 programs, about two for each of an H100's 132 multiprocessors; three
    stages of 512 bytes of each are then some 48 KB in flight on each, where 20 hide the memory's latency. A thread
    loads 16 bytes along k. More rows: 32 rows of weights make as many programs as multiprocessors. From 64 rows on
    x, which every program reads anew, is more than the weights, and programs are twice as tall.
    """
    if m == 1:
        return {"block_n": 16, "block_k": 512, "stages": 4, "num_warps": 4}
    rows = max(power_of_two(m), 16)
    wide = dtype == torch.float32
    depth = 64 if wide or rows >= 64 else 128 if rows == 32 else 256
    return {
        "block_m": rows,
        "block_n": 32 if rows < 64 else 64,
        "block_k": depth,
        "stages": 3 if wide else 4,
        "num_warps": 4,
    }


def _narrow(x: Tensor, a: Tensor, pair_scale: Tensor, r: int, rows_of_trial: int) -> Tensor:
    m, k = x.shape
    narrow = torch.empty(m, r, dtype=torch.float32, device=x.device)
    block = min(power_of_two(r), 8)
    _kernels().narrow_rows[(m, -(-r // block))](
        x, a, pair_scale, narrow, k, r, rows_of_trial, block_r=block, block_k=1024, num_warps=4
    )
    return narrow


def _made(x: Tensor, q: Tensor, *others: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], q.shape[0], dtype=torch.float32)


@lru_cache
def _operator() -> Any:
    """As torch's operator, for a pass on tensors without numbers, too."""
    define(SCHEMA, launch, _made, device="CUDA")
    return torch.ops.summarizer.int8_rows.default


def _kernels() -> Any:
    # At the first product: importing triton takes longer than a command's help.
    from summarizer.ops import few_rows_triton_kernels as few_rows_kernels

    return few_rows_kernels
