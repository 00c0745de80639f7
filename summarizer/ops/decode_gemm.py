"""Matrix products of a few rows with stored weights and what adapters add to them, as decoding asks for them.

A decoded token is bound by the rate at which memory gives the weights, so that each form reads them once, as they
are stored: int8, nf4, blockwise8, fp8 and unquantized ones in C on a CPU, int8 in Triton on a GPU. Prompts are read
by prefill_gemm.py.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from jaxtyping import Float, Float32, Int8, UInt8
from torch import Tensor

from summarizer import compat
from summarizer.ops import kernel_graph, native
from summarizer.ops.native import next_power_of_two

DECODE_ROWS = 16
"""Up to here rows share passes over the stored weights, four at a time, where a format says nothing else (two cores
with AVX-512). Of int8, prefill_gemm.c is as fast from 12 rows on. Of weights in bf16, torch's products in bf16 are
as fast from 4 rows on and less exact, those in fp32, which want a copy, from some 250."""
DECODE_ROWS_ON_GPU = 128
"""The same on a GPU, where a product of so many takes about the time in which the stored weights are read, by
arithmetic: 128 rows are 256 operations for each byte, and an H100 has 264 for each byte that it reads."""

log = logging.getLogger(__name__)


# --- when: few rows, within a block that asks for it --------------------------------------------------------------

_in_place: ContextVar[bool] = ContextVar("products read the stored weights as they are", default=False)


@contextmanager
def stored_weights_in_place() -> Iterator[None]:
    """Within the block, products read the stored weights as they are, where a kernel does: for decoding tokens, few
    rows at a time, and on a CPU for reading prompts (prefill_gemm.py).
    """
    token = _in_place.set(True)
    try:
        yield
    finally:
        _in_place.reset(token)


def is_in_place(x: Float[Tensor, "... d_in"]) -> bool:
    """Whether the rows of x, on a CPU, are to be multiplied with the stored weights as they are."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.bfloat16, torch.float32)
        and not torch.compiler.is_compiling()
        and _in_place.get()
        and not compat.is_fake(x)
    )


def is_read_in_place(x: Float[Tensor, ...]) -> bool:
    """`is_in_place` without a gradient: what is computed may be written over what it is computed from."""
    return not torch.is_grad_enabled() and is_in_place(x)


def is_decode(x: Float[Tensor, "... d_in"], most: int = DECODE_ROWS) -> bool:
    """`is_in_place` of at most so many rows."""
    return x.numel() <= most * x.shape[-1] and is_in_place(x)


def is_decode_on_gpu(x: Float[Tensor, "... d_in"]) -> bool:
    """`is_decode` of a GPU."""
    return (
        x.device.type == "cuda"
        and x.numel() <= DECODE_ROWS_ON_GPU * x.shape[-1]
        and not torch.compiler.is_compiling()
        and _in_place.get()
    )


@dataclass(frozen=True)
class LowRankPairs:
    """The pairs of `n` trials beside a layer: scale (x A^T) B is added for each trial's rows of x."""

    a: Float32[Tensor, "n r d_in"]
    b: Float32[Tensor, "n r d_out"]
    scale: Float32[Tensor, "n 1 1"]

    def dense(self) -> LowRankPairs:
        """The same pairs, each tensor without gaps."""
        return LowRankPairs(self.a.contiguous(), self.b.contiguous(), self.scale.contiguous())


@dataclass(frozen=True)
class Epilogue:
    """What is added to x W^T where a product is written: a layer's bias, and what adapters beside it give."""

    bias: Float[Tensor, " d_out"] | None = None
    pairs: LowRankPairs | None = None

    def dense(self) -> tuple[Float32[Tensor, " d_out"] | None, LowRankPairs | None]:
        """The bias in fp32 and the pairs, without gaps, as kernels read them."""
        bias = None if self.bias is None else self.bias.float().contiguous()
        return bias, None if self.pairs is None else self.pairs.dense()


NOTHING_ADDED = Epilogue()


# --- in C, on a CPU -----------------------------------------------------------------------------------------------

WHOLE_NUMBERS = "decode_gemm.c"
"""int8 and nf4, on a processor with AVX-512 and VNNI."""
CODED = "coded_gemm.c"
"""blockwise8 and fp8, bytes that a table decodes, on a processor with AVX-512, VNNI and VBMI."""
DENSE = "dense_gemm.c"
"""Weights as checkpoints have them, on a processor with AVX-512."""
_DENSE_KERNELS = {
    torch.float32: "fp32_product",
    torch.bfloat16: "bf16_product",
    torch.float16: "fp16_product",
}


class _Product(ctypes.Structure):
    """`Product` of decode_gemm.h."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("m", "k", "n")),
        *((name, ctypes.c_void_p) for name in ("bias", "a", "b", "scale")),
        *((name, ctypes.c_long) for name in ("trials", "dim")),
        ("y", ctypes.c_void_p),
        ("threads", ctypes.c_int),
    ]


def supports(x: Tensor, weight: Tensor, source: str) -> bool:
    """Whether a source's kernels multiply x with a stored weight: on a CPU that they are made for.

    source: WHOLE_NUMBERS, CODED or DENSE.
    """
    known = source != DENSE or weight.dtype in _DENSE_KERNELS
    return x.device.type == "cpu" and known and native.available(source)


def int8_gemm(
    x: Float32[Tensor, "m d_in"],
    q: Int8[Tensor, "d_out d_in"],
    scale: Float32[Tensor, "d_out 1"],
    epilogue: Epilogue = NOTHING_ADDED,
) -> Float32[Tensor, "m d_out"]:
    """x W^T and its epilogue, W row-wise int8. x is rounded to 16 bits of each row's largest value.

    A row's result is the same to the last bit whatever the other rows are. Only where it `supports` them.
    """
    return _in_c(WHOLE_NUMBERS, "int8_product", x, q.shape[0], (q, scale), epilogue)


def nf4_gemm(
    x: Float32[Tensor, "m d_in"],
    packed: UInt8[Tensor, " bytes"],
    absmax: Float32[Tensor, " blocks"],
    code: Float32[Tensor, " 16"],
    epilogue: Epilogue = NOTHING_ADDED,
) -> Float32[Tensor, "m d_out"]:
    """x W^T and its epilogue, W nf4, its rows whole blocks. Only where it `supports` them.

    x is rounded to 16 bits of each row's largest value, the code to 14 bits of its own. A row's result is the same
    to the last bit whatever the other rows are.
    """
    d_out = 2 * len(packed) // x.shape[1]
    return _in_c(WHOLE_NUMBERS, "nf4_product", x, d_out, (packed, absmax, code), epilogue)


def blockwise8_gemm(
    x: Float32[Tensor, "m d_in"],
    q: UInt8[Tensor, "d_out d_in"],
    absmax: Float32[Tensor, " blocks"],
    code: Float32[Tensor, " 256"],
    epilogue: Epilogue = NOTHING_ADDED,
) -> Float32[Tensor, "m d_out"]:
    """x W^T and its epilogue, W in blocks of 4,096 with an absmax. Only where it `supports` them.

    x is rounded to 16 bits of each row's largest value, the code to 16 bits of its own. A row's result is the same
    to the last bit whatever the other rows are.
    """
    return _in_c(CODED, "blockwise8_product", x, q.shape[0], (q, absmax, code), epilogue)


def fp8_gemm(
    x: Float32[Tensor, "m d_in"],
    q: Float[Tensor, "d_out d_in"],
    scale: Float32[Tensor, "d_out 1"],
    epilogue: Epilogue = NOTHING_ADDED,
) -> Float32[Tensor, "m d_out"]:
    """x W^T and its epilogue, W in e4m3 with a scale for each row. Only where it `supports` them.

    Rounded as `blockwise8_gemm` rounds; W's numbers to 16 bits of the largest, 448.
    """
    return _in_c(CODED, "fp8_product", x, q.shape[0], (q, scale, _e4m3()), epilogue)


@cache
def _e4m3() -> Float32[Tensor, " 256"]:
    """Each byte's number; 0 for the two that stand for NaN, which no finite weight is stored as."""
    return torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().nan_to_num(0.0)


def dense_gemm(
    x: Float32[Tensor, "m d_in"],
    weight: Float[Tensor, "d_out d_in"],
    epilogue: Epilogue = NOTHING_ADDED,
) -> Float32[Tensor, "m d_out"]:
    """x W^T and its epilogue, all in fp32. Only where it `supports` them.

    A row's result is the same to the last bit whatever the other rows are.
    """
    return _in_c(DENSE, _DENSE_KERNELS[weight.dtype], x, weight.shape[0], (weight,), epilogue)


def _in_c(
    source: str,
    name: str,
    x: Float32[Tensor, "m d_in"],
    d_out: int,
    weight: tuple[Tensor, ...],
    epilogue: Epilogue,
) -> Float32[Tensor, "m d_out"]:
    """What a function of a source that includes decode_gemm.h makes of x and of a weight's stored parts."""
    # Bound to names: the kernel reads their memory after this line, from a kernel graph much later.
    x, weight = x.contiguous(), tuple(part.contiguous() for part in weight)
    bias, pairs = epilogue.dense()
    y = torch.empty(len(x), d_out)
    product = native.structure(
        _Product,
        x=x,
        m=len(x),
        k=x.shape[1],
        n=d_out,
        bias=bias,
        a=pairs and pairs.a,
        b=pairs and pairs.b,
        scale=pairs and pairs.scale,
        trials=0 if pairs is None else pairs.a.shape[0],
        dim=0 if pairs is None else pairs.a.shape[1],
        y=y,
        threads=torch.get_num_threads(),
    )
    kernel_graph.call(native.kernel(source, name), product, *weight, keeps=(x, bias, pairs, y))
    return y


# --- by torch, on a CPU -------------------------------------------------------------------------------------------


def int8_gemm_by_torch(
    x: Float[Tensor, "m d_in"], q: Int8[Tensor, "d_out d_in"], scale: Float32[Tensor, "d_out 1"]
) -> Float[Tensor, "m d_out"] | None:
    """x W^T, W row-wise int8, in the precision of x. None for a weight that torch's kernel cannot read.

    It reads 16 weights at a time and crashes on others (seen with 2.13, in bf16).
    """
    if q.data_ptr() % 16 or q.shape[1] % 16:
        return None
    return (compat.int8_weight_mm(x, q) * scale.squeeze(1)).to(x.dtype)


# --- in Triton, on a GPU ------------------------------------------------------------------------------------------

PAIRS_IN_EVERY_PROGRAM = 4
"""Up to this dim every program of one row's product multiplies x with A itself, in fp32 from the GPU's cache: at
half the bytes of its weights or less it costs less than a launch of its own."""
OLDEST_GPU = (8, 0)
"""Its compute capability: older ones have no products in bf16."""
INT8_ROWS = (
    "int8_rows(Tensor x, Tensor q, Tensor scale, Tensor? bias, Tensor? a, Tensor? b, Tensor? pair_scale)"
    " -> Tensor"
)


@lru_cache
def triton_available() -> bool:
    """Whether triton is installed and runs a kernel on the current GPU; if not, the log says so once, and why."""
    if importlib.util.find_spec("triton") is None:
        log.warning(
            "triton is not installed: int8 weights are made dense for each token, which is far slower"
        )
        return False
    if torch.cuda.get_device_capability() < OLDEST_GPU:
        log.warning("int8 weights are made dense for each token on a GPU before Ampere, which is far slower")
        return False
    gpu = torch.device("cuda")
    ones = torch.ones(1, 16, dtype=torch.int8, device=gpu)
    try:
        y = launch_int8(ones.float(), ones, torch.ones(1, 1, device=gpu), None, None, None, None)
        works = y.item() == 16
        told = f"16 ones have the sum {y.item()}"
    # Triton compiles a launcher with the system's C compiler, which it may not find, or not with Python's headers.
    except (RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        works, told = False, str(error)
    if not works:
        log.warning("triton does not run here, int8 weights are made dense for each token: %s", told)
    return works


def int8_gemm_on_gpu(
    x: Float[Tensor, "m d_in"],
    q: Int8[Tensor, "d_out d_in"],
    scale: Float32[Tensor, "d_out 1"],
    epilogue: Epilogue = NOTHING_ADDED,
) -> Float32[Tensor, "m d_out"]:
    """x W^T and its epilogue, summed in fp32; the products of x's own 16 or 32 bits."""
    pairs = epilogue.pairs
    parts = (None, None, None) if pairs is None else (pairs.a, pairs.b, pairs.scale)
    y: Tensor = _operator()(x, q, scale, epilogue.bias, *parts)
    return y


def launch_int8(
    x: Tensor,
    q: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    pair_scale: Tensor | None,
) -> Tensor:
    """The product itself, where triton can run: on a GPU, or interpreted."""
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
        given |= {"narrow_here": narrow_here, "block_r": next_power_of_two(r) if narrow_here else 1}
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
    rows = max(next_power_of_two(m), 16)
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
    block = min(next_power_of_two(r), 8)
    _kernels().narrow_rows[(m, -(-r // block))](
        x, a, pair_scale, narrow, k, r, rows_of_trial, block_r=block, block_k=1024, num_warps=4
    )
    return narrow


def _shaped(x: Tensor, q: Tensor, *others: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], q.shape[0], dtype=torch.float32)


@lru_cache
def _operator() -> Any:
    """As torch's operator, for a pass on tensors without numbers, too."""
    native.define_operator(INT8_ROWS, launch_int8, _shaped, device="CUDA")
    return torch.ops.summarizer.int8_rows.default


def _kernels() -> Any:
    # At the first product: importing triton takes longer than a command's help.
    from summarizer.ops import decode_gemm_triton

    return decode_gemm_triton
