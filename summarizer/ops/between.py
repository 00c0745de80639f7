"""Norms, activations and sums of a few rows, as they lie between a token's products: between.c for tensors."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from summarizer.ops.compiled import kernels, library, place_of
from summarizer.ops.tape import call

SOURCE = Path(__file__).with_name("between.c")


class _Norm(ctypes.Structure):
    """`Norm` of between.c."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("rows", ctypes.c_long),
        ("d", ctypes.c_long),
        ("epsilon", ctypes.c_float),
        ("centerd", ctypes.c_int),
    ]


class _Activation(ctypes.Structure):
    """`Activation` of between.c."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("times", ctypes.c_void_p),
        ("count", ctypes.c_long),
        ("tanh_gelu", ctypes.c_int),
    ]


class _Sum(ctypes.Structure):
    """`Sum` of between.c."""

    _fields_ = [("x", ctypes.c_void_p), ("added", ctypes.c_void_p), ("count", ctypes.c_long)]


def is_at_hand() -> bool:
    """Whether this machine has a processor and a compiler for it."""
    return library(SOURCE) is not None


def layer_norm(
    x: Float32[Tensor, "rows d"],
    weight: Float32[Tensor, " d"],
    bias: Float32[Tensor, " d"] | None,
    epsilon: float,
) -> Float32[Tensor, "rows d"]:
    """`torch.nn.functional.layer_norm` over the last axis. Only where `is_at_hand`, as all of these."""
    return _norm(x, weight, bias, epsilon, centerd=True)


def rms_norm(
    x: Float32[Tensor, "rows d"], weight: Float32[Tensor, " d"], epsilon: float
) -> Float32[Tensor, "rows d"]:
    """`torch.nn.functional.rms_norm` over the last axis."""
    return _norm(x, weight, None, epsilon, centerd=False)


def _norm(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float, *, centerd: bool) -> Tensor:
    y = torch.empty_like(x)
    given = _Norm(
        x=place_of(x),
        weight=place_of(weight),
        bias=place_of(bias),
        y=place_of(y),
        rows=len(x),
        d=x.shape[1],
        epsilon=epsilon,
        centerd=centerd,
    )
    call(kernels(SOURCE).norm, given, uses=(x, weight, bias, y))
    return y


def tanh_gelu_(x: Float32[Tensor, "rows d"]) -> Float32[Tensor, "rows d"]:
    """`torch.nn.functional.gelu(x, approximate="tanh")` in place."""
    call(kernels(SOURCE).activate, _Activation(place_of(x), None, x.numel(), True), uses=(x,))
    return x


def silu_times_(x: Float32[Tensor, "rows d"], times: Float32[Tensor, "rows d"]) -> Float32[Tensor, "rows d"]:
    """`torch.nn.functional.silu(x) * times` in place of x."""
    call(
        kernels(SOURCE).activate, _Activation(place_of(x), place_of(times), x.numel(), False), uses=(x, times)
    )
    return x


def add_(x: Float32[Tensor, "rows d"], added: Float32[Tensor, "rows d"]) -> Float32[Tensor, "rows d"]:
    """`x += added`."""
    call(kernels(SOURCE).add, _Sum(place_of(x), place_of(added), x.numel()), uses=(x, added))
    return x
