"""GELU in its tanh form, as GPT-J has it: gelu.c for tensors in bf16 on a CPU, torch's own for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from summarizer.ops.compiled import kernels, library
from summarizer.ops.operators import count, define, is_eager, numbers_of, threads

SOURCE = Path(__file__).with_name("gelu.c")


class TanhGELU(nn.GELU):
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), in one pass over memory, and so is its gradient."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")

    def forward(self, x: Float[Tensor, ...]) -> Float[Tensor, ...]:
        if takes(x):
            y: Tensor = _GELU.apply(x)  # type: ignore[no-untyped-call]
            return y
        return F.gelu(x, approximate="tanh")


def takes(x: Tensor) -> bool:
    """Whether the kernel is made for such numbers and this machine."""
    return is_eager(x, torch.bfloat16) and library(SOURCE) is not None


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
    x, y = x.contiguous(), _made(x)
    kernels(SOURCE).gelu(numbers_of(x), count(x.numel()), numbers_of(y), threads())
    return y


def _backward(grad: Tensor, x: Tensor) -> Tensor:
    grad, x, grad_x = grad.contiguous(), x.contiguous(), _made_backward(grad, x)
    kernels(SOURCE).gelu_backward(
        numbers_of(grad), numbers_of(x), count(x.numel()), numbers_of(grad_x), threads()
    )
    return grad_x


def _made(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _made_backward(grad: Tensor, x: Tensor) -> Tensor:
    assert grad.dtype == x.dtype, "a gradient is in the precision of what it is of"
    return x.new_empty(x.shape)


define("gelu(Tensor x) -> Tensor", _forward, _made)
define("gelu_backward(Tensor grad, Tensor x) -> Tensor", _backward, _made_backward)
