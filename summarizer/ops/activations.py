"""Activations of MLPs: GELU in its tanh form, as GPT-J has it, and SiLU times a gate, as Llama has it."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from summarizer.ops import kernel_graph, native
from summarizer.ops.elementwise import BF16_SOURCE, SOURCE, is_recordable


def supports(x: Tensor) -> bool:
    """Whether both have a kernel with a gradient for such numbers on this machine."""
    return native.is_eager(x, torch.bfloat16) and native.available(BF16_SOURCE)


def gelu_tanh(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), in one pass over memory, and so is its gradient.

    Where recorded, in the place of x, which is not used again.
    """
    if kernel_graph.is_recording():
        kernel_graph.require(is_recordable(x), "an activation")
        return gelu_tanh_(x)
    if supports(x):
        y: Tensor = _GELU.apply(x)  # type: ignore[no-untyped-call]
        return y
    return F.gelu(x, approximate="tanh")


def silu_mul(gate: Float[Tensor, "*shape"], up: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """silu(gate) * up; where recorded, in the place of `gate`, which is not used again.

    In C it keeps gate and up alone for backward, where torch's two operations keep silu(gate) too, a seventh of all
    that a block of SmolLM2 keeps. Source: Shazeer 2020 (arXiv:2002.05202).
    """
    if kernel_graph.is_recording():
        kernel_graph.require(is_recordable(gate) and is_recordable(up), "an activation")
        return silu_mul_(gate, up)
    if supports(gate) and supports(up):
        y: Tensor = _SiLUMul.apply(gate, up)  # type: ignore[no-untyped-call]
        return y
    return F.silu(gate) * up


class TanhGELU(nn.GELU):
    """`gelu_tanh` as a module."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")

    def forward(self, x: Float[Tensor, ...]) -> Float[Tensor, ...]:
        return gelu_tanh(x)


# --- of decoded rows ----------------------------------------------------------------------------------------------


class _Activation(ctypes.Structure):
    """`Activation` of elementwise.c."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("times", ctypes.c_void_p),
        ("count", ctypes.c_long),
        ("tanh_gelu", ctypes.c_int),
    ]


def gelu_tanh_(x: Float32[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """`gelu_tanh` in place by the kernel of decoded rows, for a dense tensor."""
    given = native.structure(_Activation, x=x, times=None, count=x.numel(), tanh_gelu=True)
    kernel_graph.call(native.kernel(SOURCE, "activate"), given, keeps=(x,))
    return x


def silu_mul_(gate: Float32[Tensor, "*shape"], up: Float32[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """`silu_mul` in the place of `gate` by the kernel of decoded rows, for dense tensors."""
    given = native.structure(_Activation, x=gate, times=up, count=gate.numel(), tanh_gelu=False)
    kernel_graph.call(native.kernel(SOURCE, "activate"), given, keeps=(gate, up))
    return gate


# --- with a gradient ----------------------------------------------------------------------------------------------


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y: Tensor = torch.ops.summarizer.gelu(x)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad_x: Tensor = torch.ops.summarizer.gelu_backward(grads[0], *ctx.saved_tensors)
        return grad_x


def _forward(x: Tensor) -> Tensor:
    x, y = x.contiguous(), _shaped(x)
    native.run(BF16_SOURCE, "gelu", x, x.numel(), y)
    return y


def _backward(grad: Tensor, x: Tensor) -> Tensor:
    grad, x, grad_x = grad.contiguous(), x.contiguous(), _shaped_backward(grad, x)
    native.run(BF16_SOURCE, "gelu_backward", grad, x, x.numel(), grad_x)
    return grad_x


def _shaped(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _shaped_backward(grad: Tensor, x: Tensor) -> Tensor:
    assert grad.dtype == x.dtype, "a gradient is in the precision of what it is of"
    return x.new_empty(x.shape)


native.define_operator("gelu(Tensor x) -> Tensor", _forward, _shaped)
native.define_operator("gelu_backward(Tensor grad, Tensor x) -> Tensor", _backward, _shaped_backward)


class _SiLUMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        y: Tensor = torch.ops.summarizer.silu_mul(gate, up)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        grad_gate, grad_up = torch.ops.summarizer.silu_mul_backward(grads[0], *ctx.saved_tensors)
        return grad_gate, grad_up


def _gated_forward(gate: Tensor, up: Tensor) -> Tensor:
    gate, up, y = gate.contiguous(), up.contiguous(), _gated_shaped(gate, up)
    native.run(BF16_SOURCE, "silu_mul", gate, up, gate.numel(), y)
    return y


def _gated_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    grad, gate, up = grad.contiguous(), gate.contiguous(), up.contiguous()
    grad_gate, grad_up = _gated_shaped_backward(grad, gate, up)
    native.run(BF16_SOURCE, "silu_mul_backward", grad, gate, up, gate.numel(), grad_gate, grad_up)
    return grad_gate, grad_up


def _gated_shaped(gate: Tensor, up: Tensor) -> Tensor:
    assert gate.shape == up.shape, "a factor for each number"
    return gate.new_empty(gate.shape)


def _gated_shaped_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    assert grad.dtype == gate.dtype == up.dtype, "a gradient is in the precision of what it is of"
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


native.define_operator("silu_mul(Tensor gate, Tensor up) -> Tensor", _gated_forward, _gated_shaped)
native.define_operator(
    "silu_mul_backward(Tensor grad, Tensor gate, Tensor up) -> (Tensor, Tensor)",
    _gated_backward,
    _gated_shaped_backward,
)
