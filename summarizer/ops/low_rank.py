"""The narrow products of low-rank pairs beside a layer, as training takes them: x A^T, y + h B and h^T x.

They have few operations for each number of x that they read. On a CPU with AVX-512 and bf16 each is one pass over x
in C for all trials, whatever their dims: with the pairs in fp32 as they are trained, or in bf16 where x is and they
have more dims. Elsewhere, and for many dims, torch multiplies in x's precision.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from summarizer.ops import native

SOURCE = "low_rank.c"
MOST_DIMS = {torch.bfloat16: 16, torch.float32: 16}
"""Up to here the kernels are faster than a library's products. Measured on one core of a Zen 4, 1,024 x 576, best
of 60, the three together, in C and by torch: in bf16 196 and 313 us for 2 dims, 249 and 353 for 4, 265 and 370 for
8, 390 and 484 for 16; in fp32 279 and 422 for 2, 397 and 557 for 8, 640 and 709 for 16. In bf16 it is `MOST` of
low_rank.c, which keeps a place for so many dims of each row."""
FEW_DIMS = 4
"""Beside numbers in bf16, pairs of more dims are rounded to bf16: `FEW` of low_rank.c."""
FEW_TOKENS = 16
"""Of a trial. Up to here torch on a CPU multiplies the pairs in their own fp32: converting them would cost more."""


def equal_dims(dims: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Neighboring trials of one dim, and that dim. Left out are those of dim 0, which leave the layer alone."""
    start = 0
    for dim, same in groupby(dims):
        stop = start + len(list(same))
        if dim:
            yield slice(start, stop), dim
        start = stop


def supports(x: Tensor, r: int) -> bool:
    """Whether the kernels run here and are made for such numbers and so many dims."""
    return native.is_eager(x, x.dtype) and r <= MOST_DIMS.get(x.dtype, 0) and native.available(SOURCE)


def dims_in_c(x: Tensor, dims: Sequence[int]) -> list[int]:
    """The dims of those trials that the kernels multiply, 0 for the others: it depends on none but their own."""
    return [r if supports(x, r) else 0 for r in dims]


def _by_torch(dims: Sequence[int], in_c: Sequence[int]) -> Iterator[tuple[slice, int]]:
    return equal_dims([0 if kernel else r for r, kernel in zip(dims, in_c, strict=True)])


def _in_own_precision(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.shape[1] <= FEW_TOKENS


def narrowed(
    x: Float[Tensor, "n m d"],
    pair: Float[Tensor, "n r d"],
    scale: Float[Tensor, "n 1 1"],
    dims: Sequence[int],
) -> list[Tensor]:
    """scale x pair^T of each trial's own first rows of the pair: `dims`, 0 for a trial that is left alone.

    In fp32 by the kernel, in x's precision by torch. Of the trials that the kernel takes all behind each other, of
    the others (k, m, r) for each run of neighbors of one dim: what the other functions here take as `own`.
    """
    in_c = dims_in_c(x, dims)
    own: list[Tensor] = [torch.ops.summarizer.narrowed(x, pair, scale, in_c)] if any(in_c) else []
    for trials, r in _by_torch(dims, in_c):
        first, each = pair[trials, :r].transpose(1, 2), scale[trials]
        if _in_own_precision(x):
            own.append(torch.bmm(x[trials].to(pair.dtype), first) * each)
        else:
            own.append(torch.bmm(x[trials], first.to(x.dtype)) * each.to(x.dtype))
    return own


def add_widened_(
    y: Float[Tensor, "n m d"], own: Sequence[Tensor], pair: Float[Tensor, "n r d"], dims: Sequence[int]
) -> None:
    """y += own pair, rounded once by the kernel. own, dims: as of `narrowed`."""
    in_c, parts = dims_in_c(y, dims), iter(own)
    if any(in_c):
        torch.ops.summarizer.add_widened_(y, next(parts), pair, in_c)
    for (trials, r), narrow in zip(_by_torch(dims, in_c), parts, strict=True):
        if _in_own_precision(y):
            y[trials].add_(torch.bmm(narrow, pair[trials, :r].to(narrow.dtype)))
        else:
            y[trials].baddbmm_(narrow.to(y.dtype), pair[trials, :r].to(y.dtype))


def row_sums(
    own: Sequence[Tensor], x: Float[Tensor, "n m d"], most: int, dims: Sequence[int]
) -> Float[Tensor, "n most d"]:
    """own^T x, zeros behind each trial's own rows: the gradient of a pair that is stored in `most` rows.

    In fp32 by the kernel, in x's precision by torch. own, dims: as of `narrowed`.
    """
    in_c, parts = dims_in_c(x, dims), iter(own)
    runs = list(_by_torch(dims, in_c))
    if runs == [(slice(0, len(x)), most)]:
        return torch.bmm(own[0].to(x.dtype).transpose(1, 2), x)
    whole: Tensor = (
        torch.ops.summarizer.row_sums(next(parts), x, most, in_c)
        if any(in_c)
        else x.new_zeros(len(x), most, x.shape[2])
    )
    for (trials, r), narrow in zip(runs, parts, strict=True):
        whole[trials, :r] = torch.bmm(narrow.to(x.dtype).transpose(1, 2), x[trials])
    return whole


# --- in C ---------------------------------------------------------------------------------------------------------


class _LowRank(ctypes.Structure):
    """`LowRank` of low_rank.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "own", "pair", "scale")),
        *((name, ctypes.POINTER(ctypes.c_long)) for name in ("dims", "start")),
        ("rounded", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("trials", "rows", "d", "pair_rows")),
        ("in_bf16", ctypes.c_int),
        ("threads", ctypes.c_int),
    ]


def _call(
    name: str,
    x: Tensor,
    own: Tensor,
    pair: Tensor,
    dims: Sequence[int],
    scale: Tensor | None = None,
    rounded: int = 0,
) -> None:
    """rounded: numbers of bf16 that the kernel keeps meanwhile."""
    n, m, d = x.shape
    assert own.numel() == m * sum(dims), "a row of each row of x"
    assert pair.shape[::2] == (n, d), "a pair of each trial"
    assert max(dims) <= pair.shape[1], "a row of each dim"
    assert own.dtype == pair.dtype == torch.float32, "in fp32"
    kept = x.new_empty(rounded, dtype=torch.bfloat16)
    given = native.structure(
        _LowRank,
        x=x,
        own=own,
        pair=pair,
        scale=scale,
        dims=(ctypes.c_long * n)(*dims),
        start=(ctypes.c_long * n)(*accumulate(dims[:-1], initial=0)),
        rounded=kept,
        trials=n,
        rows=m,
        d=d,
        pair_rows=pair.shape[1],
        in_bf16=x.dtype == torch.bfloat16,
        threads=torch.get_num_threads(),
    )
    native.kernel(SOURCE, name)(ctypes.byref(given))


def _narrowed(x: Tensor, pair: Tensor, scale: Tensor, dims: Sequence[int]) -> Tensor:
    own, each = _shaped_narrowed(x, pair, scale, dims), scale.float().contiguous()
    assert each.numel() == len(x), "one scale for each trial"
    _call("narrow", x.contiguous(), own, pair.float().contiguous(), dims, each, sum(dims) * x.shape[2])
    return own


def _add_widened(y: Tensor, own: Tensor, pair: Tensor, dims: Sequence[int]) -> None:
    whole = y.contiguous()
    _call("add_widened", whole, own, pair.float().contiguous(), dims)
    if whole is not y:
        y.copy_(whole)


def _row_sums(own: Tensor, x: Tensor, most: int, dims: Sequence[int]) -> Tensor:
    pair = _shaped_sums(own, x, most, dims)
    if min(dims) < most:
        pair.zero_()
    _call("sum_rows", x.contiguous(), own, pair, dims, rounded=len(x) * (x.shape[1] + 1) * MOST_DIMS[x.dtype])
    return pair


def _shaped_narrowed(x: Tensor, pair: Tensor, scale: Tensor, dims: Sequence[int]) -> Tensor:
    return x.new_empty(x.shape[1] * sum(dims), dtype=torch.float32)


def _shaped_sums(own: Tensor, x: Tensor, most: int, dims: Sequence[int]) -> Tensor:
    return x.new_empty(x.shape[0], most, x.shape[2], dtype=torch.float32)


native.define_operator(
    "narrowed(Tensor x, Tensor pair, Tensor scale, int[] dims) -> Tensor", _narrowed, _shaped_narrowed
)
native.define_operator(
    "add_widened_(Tensor(a!) y, Tensor own, Tensor pair, int[] dims) -> ()",
    _add_widened,
    lambda y, own, pair, dims: None,
)
native.define_operator(
    "row_sums(Tensor own, Tensor x, int most, int[] dims) -> Tensor", _row_sums, _shaped_sums
)


@register_flop_formula([torch.ops.summarizer.narrowed, torch.ops.summarizer.add_widened_])
def _flops(x: Sequence[int], _: object, __: object, dims: Sequence[int], **named: object) -> int:
    _, m, d = x
    return 2 * m * d * sum(dims)


@register_flop_formula(torch.ops.summarizer.row_sums)
def _row_sums_flops(own: object, x: Sequence[int], most: int, dims: Sequence[int], **named: object) -> int:
    _, m, d = x
    return 2 * m * d * sum(dims)
