"""Products of a few rows with stored weights, as writing a token asks for them: few_rows.c for torch's tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float32, Int8, UInt8
from torch import Tensor

from summarizer.ops.compiled import kernels, library, place_of
from summarizer.ops.tape import call

SOURCE = Path(__file__).with_name("few_rows.c")
FEW_ROWS = 16
"""Up to here rows share passes over the stored weights, four at a time, where a format says nothing else (two cores
with AVX-512). Of int8, many_rows.c is as fast from 12 rows on. Of weights in bf16, torch's products in bf16 are as
fast from 4 rows on and less exact, those in fp32, which want a copy, from some 250."""
FEW_ROWS_ON_A_CARD = 128
"""The same on a card, where a product of so many takes about the time in which the stored weights are read, by
arithmetic: 128 rows are 256 operations for each byte, and an H100 has 264 for each byte that it reads."""

_in_place = False


@contextmanager
def stored_weights_in_place() -> Iterator[None]:
    """Within the block, products read the stored weights as they are, where a kernel does: for writing tokens, few
    rows at a time, and on a CPU for reading prompts (many_rows.py).

    Not for two threads at once.
    """
    global _in_place
    before, _in_place = _in_place, True
    try:
        yield
    finally:
        _in_place = before


def are_few_in_place(x: Float[Tensor, "... d_in"], most: int = FEW_ROWS) -> bool:
    """Whether the rows of x are to be multiplied with the stored weights as they are, being at most so many."""
    return x.numel() <= most * x.shape[-1] and is_in_place(x)


def is_in_place(x: Float[Tensor, "... d_in"]) -> bool:
    """The same, however many they are."""
    return (
        _in_place
        and x.device.type == "cpu"
        and x.dtype in (torch.bfloat16, torch.float32)
        and not torch.compiler.is_compiling()
    )


def are_few_on_a_card(x: Float[Tensor, "... d_in"]) -> bool:
    """`are_few_in_place` of a card."""
    return (
        _in_place
        and x.numel() <= FEW_ROWS_ON_A_CARD * x.shape[-1]
        and x.device.type == "cuda"
        and not torch.compiler.is_compiling()
    )


@dataclass(frozen=True)
class LowRankPairs:
    """Those of `n` trials beside a layer: scale (x A^T) B is added for each trial's rows of x."""

    a: Float32[Tensor, "n r d_in"]
    b: Float32[Tensor, "n r d_out"]
    scale: Float32[Tensor, "n 1 1"]

    def dense(self) -> LowRankPairs:
        """The same, each tensor without gaps."""
        return LowRankPairs(self.a.contiguous(), self.b.contiguous(), self.scale.contiguous())


class _Product(ctypes.Structure):
    """`Product` of few_rows.h."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("m", ctypes.c_long),
        ("k", ctypes.c_long),
        ("n", ctypes.c_long),
        ("bias", ctypes.c_void_p),
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("trials", ctypes.c_long),
        ("dim", ctypes.c_long),
        ("y", ctypes.c_void_p),
        ("threads", ctypes.c_int),
    ]


def is_at_hand() -> bool:
    """Whether this machine has a processor and a compiler for it."""
    return library(SOURCE) is not None


def int8_product(
    x: Float32[Tensor, "m d_in"],
    q: Int8[Tensor, "d_out d_in"],
    scale: Float32[Tensor, "d_out 1"],
    bias: Float[Tensor, " d_out"] | None = None,
    pairs: LowRankPairs | None = None,
) -> Float32[Tensor, "m d_out"]:
    """x W^T + bias + the pairs' products, W row-wise int8. x is rounded to 16 bits of each row's largest value.

    A row's result is the same to the last bit whatever the other rows are. Only where `is_at_hand`.
    """
    return stored_product(SOURCE, "int8_product", x, q.shape[0], (q, scale), bias, pairs)


def nf4_product(
    x: Float32[Tensor, "m d_in"],
    packed: UInt8[Tensor, " bytes"],
    absmax: Float32[Tensor, " blocks"],
    code: Float32[Tensor, " 16"],
    bias: Float[Tensor, " d_out"] | None = None,
    pairs: LowRankPairs | None = None,
) -> Float32[Tensor, "m d_out"]:
    """x W^T + bias + the pairs' products, W nf4, its rows whole blocks. Only where `is_at_hand`.

    x is rounded to 16 bits of each row's largest value, the code to 14 bits of its own. A row's result is the same
    to the last bit whatever the other rows are.
    """
    d_out = 2 * len(packed) // x.shape[1]
    return stored_product(SOURCE, "nf4_product", x, d_out, (packed, absmax, code), bias, pairs)


def stored_product(
    source: Path,
    name: str,
    x: Float32[Tensor, "m d_in"],
    d_out: int,
    weight: tuple[Tensor, ...],
    bias: Float[Tensor, " d_out"] | None,
    pairs: LowRankPairs | None,
) -> Float32[Tensor, "m d_out"]:
    """What the function `name` of a source that includes few_rows.h makes of x and of a weight's stored parts."""
    # Bound to names: the kernel reads their memory after this line, from a tape much later.
    x, bias = x.contiguous(), None if bias is None else bias.float().contiguous()
    weight = tuple(part.contiguous() for part in weight)
    pairs = None if pairs is None else pairs.dense()
    y = torch.empty(len(x), d_out)
    product = _Product(
        x=place_of(x),
        m=len(x),
        k=x.shape[1],
        n=d_out,
        bias=place_of(bias),
        a=pairs and place_of(pairs.a),
        b=pairs and place_of(pairs.b),
        scale=pairs and place_of(pairs.scale),
        trials=0 if pairs is None else pairs.a.shape[0],
        dim=0 if pairs is None else pairs.a.shape[1],
        y=place_of(y),
        threads=torch.get_num_threads(),
    )
    call(getattr(kernels(source), name), product, *weight, uses=(x, bias, pairs, y))
    return y
