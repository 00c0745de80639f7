"""Norms of rows: RMS normalization, as Llama has it, and layer normalization, as GPT-J has it."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from summarizer.ops import kernel_graph, native
from summarizer.ops.decode_gemm import is_read_in_place
from summarizer.ops.elementwise import is_recordable

SOURCE = "norms.c"


def supports(x: Tensor) -> bool:
    """Whether `rms_norm` has a kernel with a gradient for such numbers on this machine."""
    return native.is_eager(x, torch.float32) and native.available(SOURCE)


def rms_norm(
    x: Float[Tensor, "... d"], weight: Float[Tensor, " d"], epsilon: float
) -> Float[Tensor, "... d"]:
    """weight * x / sqrt(mean(x^2) + epsilon) over the last axis.

    In C, of a weight that is not trained, it keeps x and one number a row for backward, where the operations one by
    one keep three tensors as large as x. Measured on two cores, 2 x 1,024 rows of 576, both passes: 1.87 ms one by
    one, 0.31 ms so. Source: Zhang and Sennrich 2019 (arXiv:1910.07467).
    """
    if kernel_graph.is_recording():
        kernel_graph.require(_is_recordable(x, weight), "an RMS norm")
        return decode_norm(x, weight, None, epsilon, centered=False)
    if supports(x) and weight.dtype == torch.float32 and not weight.requires_grad:
        if is_read_in_place(x):
            return _forward(x, weight, epsilon)[0]
        y: Tensor = _RMSNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
        return y
    return rms_norm_by_torch(x, weight, epsilon)


def rms_norm_by_torch(
    x: Float[Tensor, "... d"], weight: Float[Tensor, " d"], epsilon: float
) -> Float[Tensor, "... d"]:
    """`rms_norm` by torch's own operations, in any precision and with a gradient for the weight."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * normed.to(x.dtype)


def layer_norm(
    x: Float[Tensor, "... d"], weight: Float[Tensor, " d"], bias: Float[Tensor, " d"] | None, epsilon: float
) -> Float[Tensor, "... d"]:
    """weight * (x - mean(x)) / sqrt(var(x) + epsilon) + bias over the last axis. Source: arXiv:1607.06450."""
    if kernel_graph.is_recording():
        recordable = _is_recordable(x, weight) and (bias is None or bias.dtype == torch.float32)
        kernel_graph.require(recordable, "a layer norm")
        return decode_norm(x, weight, bias, epsilon, centered=True)
    return F.layer_norm(x, weight.shape, weight, bias, epsilon)


class RMSNorm(nn.Module):
    """`rms_norm` as a module, of a weight that is not trained."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self.epsilon = epsilon

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return rms_norm(x, self.weight, self.epsilon)


class LayerNorm(nn.LayerNorm):
    """`layer_norm` as a module."""

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return layer_norm(x, self.weight, self.bias, self.eps)


# --- of decoded rows ----------------------------------------------------------------------------------------------


class _Norm(ctypes.Structure):
    """`Norm` of norms.c."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("rows", ctypes.c_long),
        ("d", ctypes.c_long),
        ("epsilon", ctypes.c_float),
        ("centered", ctypes.c_int),
    ]


def decode_norm(
    x: Float32[Tensor, "... d"],
    weight: Float32[Tensor, " d"],
    bias: Float32[Tensor, " d"] | None,
    epsilon: float,
    *,
    centered: bool,
) -> Float32[Tensor, "... d"]:
    """Either norm by the kernel of decoded rows, for dense tensors. centered: a layer norm."""
    y, d = torch.empty_like(x), x.shape[-1]
    of = {"x": x, "weight": weight, "bias": bias, "y": y}
    given = native.structure(_Norm, **of, rows=x.numel() // d, d=d, epsilon=epsilon, centered=centered)
    kernel_graph.call(native.kernel(SOURCE, "norm"), given, keeps=(x, weight, bias, y))
    return y


def _is_recordable(x: Tensor, weight: Tensor) -> bool:
    return is_recordable(x) and weight.dtype == torch.float32 and native.available(SOURCE)


# --- with a gradient ----------------------------------------------------------------------------------------------


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        y: Tensor
        y, rate = torch.ops.summarizer.rms_norm(x, weight, epsilon)
        ctx.save_for_backward(x, weight, rate)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return torch.ops.summarizer.rms_norm_backward(grads[0], *ctx.saved_tensors), None, None


def _forward(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    x, weight, (y, rate) = x.contiguous(), weight.contiguous(), _shaped(x, weight, epsilon)
    native.run(SOURCE, "rms_norm", x, weight, epsilon, rate.numel(), x.shape[-1], y, rate)
    return y, rate


def _backward(grad: Tensor, x: Tensor, weight: Tensor, rate: Tensor) -> Tensor:
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    grad_x = _shaped_backward(grad, x, weight, rate)
    native.run(SOURCE, "rms_norm_backward", grad, x, weight, rate, rate.numel(), x.shape[-1], grad_x)
    return grad_x


def _shaped(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    assert weight.shape == x.shape[-1:], "a weight for each column"
    assert x.dtype == weight.dtype == torch.float32, "all in fp32"
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1])


def _shaped_backward(grad: Tensor, x: Tensor, weight: Tensor, rate: Tensor) -> Tensor:
    assert grad.dtype == x.dtype, "a gradient is in the precision of what it is of"
    return x.new_empty(x.shape)


native.define_operator(
    "rms_norm(Tensor x, Tensor weight, float epsilon) -> (Tensor, Tensor)", _forward, _shaped
)
native.define_operator(
    "rms_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor rate) -> Tensor",
    _backward,
    _shaped_backward,
)
