"""The narrow products of low-rank pairs beside a layer, as training takes them: x A^T, y + h B and h^T x.

They have few operations for each number of x that they read. On a CPU with AVX-512 and bf16 each is one pass over x
in C, with the pairs in fp32 as they are trained; elsewhere, and for many dims, torch multiplies in x's precision.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from summarizer.ops import native

SOURCE = "low_rank.c"
MOST_DIMS = {torch.bfloat16: 4, torch.float32: 16}
"""Up to here passes over x are what costs; a library's products of more dims come near the processor's own rate.
Measured on one core of a Zen 4, 1,024 x 576, best of many, the three together, in C and by torch: in bf16 159 and
269 us for 2 dims, 217 and 284 for 4, 362 and 320 for 8; in fp32 159 and 260 for 2, 340 and 520 for 8, 610 and 666
for 16."""


def supports(x: Tensor, r: int) -> bool:
    """Whether the kernels run here and are made for such numbers and so many dims."""
    most = MOST_DIMS.get(x.dtype, 0)
    return native.is_eager(x, x.dtype) and r <= most and native.available(SOURCE)


def narrowed(
    x: Float[Tensor, "n m d"], pair: Float[Tensor, "n r d"], scale: Float[Tensor, "n 1 1"]
) -> Float[Tensor, "n m r"]:
    """scale x pair^T: in fp32 by the kernel, else in x's precision."""
    if supports(x, pair.shape[1]):
        own: Tensor = torch.ops.summarizer.narrowed(x, pair, scale)
        return own
    return torch.bmm(x, pair.to(x.dtype).transpose(1, 2)) * scale.to(x.dtype)


def add_widened_(
    y: Float[Tensor, "n m d"], own: Float[Tensor, "n m r"], pair: Float[Tensor, "n r d"]
) -> None:
    """y += own pair, rounded once by the kernel."""
    if supports(y, pair.shape[1]) and y.is_contiguous():
        torch.ops.summarizer.add_widened_(y, own, pair)
    else:
        y.baddbmm_(own.to(y.dtype), pair.to(y.dtype))


def row_sums(own: Float[Tensor, "n m r"], x: Float[Tensor, "n m d"]) -> Float[Tensor, "n r d"]:
    """own^T x: the gradient of a pair, in fp32 by the kernel, else in x's precision."""
    if supports(x, own.shape[2]):
        pair: Tensor = torch.ops.summarizer.row_sums(own, x)
        return pair
    return torch.bmm(own.to(x.dtype).transpose(1, 2), x)


# --- in C ---------------------------------------------------------------------------------------------------------


class _LowRank(ctypes.Structure):
    """`LowRank` of low_rank.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "own", "pair", "scale")),
        *((name, ctypes.c_long) for name in ("trials", "rows", "d", "r", "pair_rows")),
        ("in_bf16", ctypes.c_int),
        ("threads", ctypes.c_int),
    ]


def _call(name: str, x: Tensor, own: Tensor, pair: Tensor, scale: Tensor | None = None) -> None:
    (n, m, d), r = x.shape, own.shape[2]
    assert own.shape == (n, m, r), "a row of each row of x"
    assert pair.shape == (n, r, d), "a row of each dim"
    assert own.dtype == pair.dtype == torch.float32, "in fp32"
    assert x.is_contiguous(), "as the kernel reads it"
    assert own.is_contiguous(), "as the kernel reads it"
    pair_rows = r
    if n > 1 and d and pair.stride() == (pair.stride(0), d, 1) and pair.stride(0) % d == 0:
        pair_rows = pair.stride(0) // d  # the first rows of each trial's, in a stack of more
    elif not pair.is_contiguous():
        pair = pair.contiguous()
    given = _LowRank(
        x=x.data_ptr(),
        own=own.data_ptr(),
        pair=pair.data_ptr(),
        scale=None if scale is None else scale.data_ptr(),
        trials=n,
        rows=m,
        d=d,
        r=r,
        pair_rows=pair_rows,
        in_bf16=x.dtype == torch.bfloat16,
        threads=torch.get_num_threads(),
    )
    native.kernel(SOURCE, name)(ctypes.byref(given))


def _narrowed(x: Tensor, pair: Tensor, scale: Tensor) -> Tensor:
    own, each = _shaped_narrowed(x, pair, scale), scale.float().contiguous()
    assert each.numel() == len(x), "one scale for each trial"
    _call("narrow", x.contiguous(), own, pair.float(), each)
    return own


def _add_widened(y: Tensor, own: Tensor, pair: Tensor) -> None:
    _call("add_widened", y, own.float().contiguous(), pair.float())


def _row_sums(own: Tensor, x: Tensor) -> Tensor:
    pair = _shaped_sums(own, x)
    _call("sum_rows", x.contiguous(), own.float().contiguous(), pair)
    return pair


def _shaped_narrowed(x: Tensor, pair: Tensor, scale: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:2], pair.shape[1], dtype=torch.float32)


def _shaped_sums(own: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], own.shape[2], x.shape[2], dtype=torch.float32)


native.define_operator("narrowed(Tensor x, Tensor pair, Tensor scale) -> Tensor", _narrowed, _shaped_narrowed)
native.define_operator(
    "add_widened_(Tensor(a!) y, Tensor own, Tensor pair) -> ()", _add_widened, lambda y, own, pair: None
)
native.define_operator("row_sums(Tensor own, Tensor x) -> Tensor", _row_sums, _shaped_sums)


@register_flop_formula(torch.ops.summarizer.narrowed)
def _narrowed_flops(x: Sequence[int], pair: Sequence[int], *more: object, **named: object) -> int:
    n, m, d = x
    return 2 * n * m * d * pair[1]


@register_flop_formula(torch.ops.summarizer.add_widened_)
def _add_widened_flops(y: Sequence[int], own: Sequence[int], *more: object, **named: object) -> int:
    n, m, d = y
    return 2 * n * m * d * own[2]


@register_flop_formula(torch.ops.summarizer.row_sums)
def _row_sums_flops(own: Sequence[int], x: Sequence[int], **named: object) -> int:
    n, m, d = x
    return 2 * n * m * d * own[2]
