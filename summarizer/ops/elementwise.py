"""Elementwise operations around products: sums, scales of columns, and the conversion to the compute dtype."""

from __future__ import annotations

import ctypes

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from summarizer.ops import kernel_graph, native
from summarizer.ops.decode_gemm import is_read_in_place

SOURCE = "elementwise.c"
BF16_SOURCE = "elementwise_bf16.c"


# --- sums ---------------------------------------------------------------------------------------------------------


class _Sum(ctypes.Structure):
    """`Sum` of elementwise.c."""

    _fields_ = [("x", ctypes.c_void_p), ("added", ctypes.c_void_p), ("count", ctypes.c_long)]


def add(x: Float[Tensor, "*shape"], added: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x + added, as a residual connection wants it: in the place of x, which is not used again, where recorded and
    where a prompt is read.
    """
    if not kernel_graph.is_recording():
        known = x.dtype == torch.float32 and supports_scales(added)
        if (
            known
            and is_read_in_place(x)
            and x.is_contiguous()
            and added.is_contiguous()
            and x.shape == added.shape
        ):
            native.run(BF16_SOURCE, "add_bf16", x, added, x.numel())
            return x
        return x + added
    kernel_graph.require(is_recordable(x) and is_recordable(added), "a sum")
    return add_(x, added)


def add_(x: Float32[Tensor, "*shape"], added: Float32[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """`x += added` by the kernel, for dense tensors."""
    given = native.structure(_Sum, x=x, added=added, count=x.numel())
    kernel_graph.call(native.kernel(SOURCE, "add"), given, keeps=(x, added))
    return x


def is_recordable(x: Tensor) -> bool:
    """Whether the kernels of decoded rows take x: dense numbers in fp32 on a CPU, and a compiler for them."""
    return native.is_eager(x, torch.float32) and x.is_contiguous() and native.available(SOURCE)


# --- scales of columns --------------------------------------------------------------------------------------------


Factor = Float32[Tensor, " columns"] | Float32[Tensor, "n 1 columns"]


def column_dots(
    x: Float[Tensor, "n m columns"], y: Float[Tensor, "n m columns"]
) -> Float32[Tensor, "n 1 columns"]:
    """The sum of x * y over the rows of each trial, in fp32."""
    known = supports_scales(x) and supports_scales(y)
    dots: Tensor = (
        torch.ops.summarizer.column_dots(x, y) if known else (x * y).sum(1, keepdim=True, dtype=torch.float32)
    )
    return dots


def _column_dots(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.contiguous(), y.contiguous()
    out = _dots_like(x, y)
    for own_x, own_y, own in zip(x, y, out, strict=True):
        native.run(BF16_SOURCE, "column_dots", own_x, own_y, *own_x.shape, own)
    return out


def _dots_like(x: Tensor, y: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], 1, x.shape[2], dtype=torch.float32)


native.define_operator("column_dots(Tensor x, Tensor y) -> Tensor", _column_dots, _dots_like)


def supports_scales(x: Tensor) -> bool:
    """Whether the kernel multiplies columns of such numbers on this machine."""
    return native.is_eager(x, torch.bfloat16) and native.available(BF16_SOURCE)


def scaled_columns(x: Float[Tensor, "... columns"], factor: Factor) -> Float[Tensor, "... columns"]:
    """x * factor, rounded once to the precision of x.

    factor: of each column, of all rows or of those of each of `n` trials, which are the first axis of x.
    """
    if not supports_scales(x):
        return (x * factor).to(x.dtype)
    y: Tensor = torch.ops.summarizer.scaled_columns(x, factor)
    return y


def scale_columns_(x: Float[Tensor, "... columns"], factor: Factor) -> Tensor:
    """`scaled_columns` in the place of x where that is possible: x is not to be used again."""
    if not supports_scales(x) or not x.is_contiguous():
        return scaled_columns(x, factor)
    torch.ops.summarizer.scale_columns_(x, factor)
    return x


def _scaled(x: Tensor, factor: Tensor) -> Tensor:
    x, y = x.contiguous(), x.new_empty(x.shape)
    _scale(x, factor, y)
    return y


def _scale(x: Tensor, factor: Tensor, y: Tensor) -> None:
    factor, columns = factor.contiguous(), x.shape[-1]
    trials = 1 if factor.dim() == 1 else x.shape[0]
    assert factor.dtype == torch.float32, "factors are in fp32"
    assert factor.shape in ((columns,), (trials, 1, columns)), "one factor for each column"
    rows = x.numel() // max(columns, 1)
    native.run(BF16_SOURCE, "scaled_columns", x, factor, rows, max(rows // max(trials, 1), 1), columns, y)


native.define_operator(
    "scaled_columns(Tensor x, Tensor factor) -> Tensor", _scaled, lambda x, factor: x.new_empty(x.shape)
)
native.define_operator(
    "scale_columns_(Tensor(a!) x, Tensor factor) -> ()",
    lambda x, factor: _scale(x, factor, x),
    lambda x, factor: None,
)


# --- the precision of products ------------------------------------------------------------------------------------

_CONVERTED = "_in_compute_dtype"
"""The attribute of a tensor that holds its converted twin, for as long as the tensor itself lives."""


def in_compute_dtype(x: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """x in the precision that autocast asks for, if it does.

    Converted once and kept beside x, since several layers multiply the same: q, k, v, or both ways into an MLP.
    """
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return x
    dtype = torch.get_autocast_dtype(device)
    if x.dtype == dtype or torch.compiler.is_compiling():  # a compiler sees by itself that it is the same
        return x.to(dtype)
    kept = getattr(x, _CONVERTED, None)
    needs_graph = torch.is_grad_enabled() and x.requires_grad
    if kept is None or kept.dtype != dtype or (needs_graph and not kept.requires_grad):
        kept = x.to(dtype)
        setattr(x, _CONVERTED, kept)
    assert isinstance(kept, Tensor)
    return kept
