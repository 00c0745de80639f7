"""GELU by tanh: torch's, and, for reading prompts and writing tokens, gelu.c, which takes a third of its time."""

from __future__ import annotations

from ctypes import c_int, c_long, c_void_p
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from summarizer.model.kernels.compiled import library
from summarizer.model.kernels.few_rows import is_in_place

SOURCE = Path(__file__).with_name("gelu.c")


def is_at_hand() -> bool:
    """Whether this machine has a processor and a compiler for it."""
    return library(SOURCE) is not None


class TanhGELU(nn.Module):
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).

    Source: Hendrycks and Gimpel 2016 (arXiv:1606.08415).
    """

    def forward(self, x: Float[Tensor, ...]) -> Float[Tensor, ...]:
        if torch.is_grad_enabled() or not is_in_place(x) or not is_at_hand():
            return F.gelu(x, approximate="tanh")
        return _in_c(x.contiguous())


def _in_c(x: Float[Tensor, ...]) -> Float[Tensor, ...]:
    loaded = library(SOURCE)
    assert loaded is not None
    y = torch.empty_like(x)
    loaded.gelu(
        c_void_p(x.data_ptr()),
        c_void_p(y.data_ptr()),
        c_long(x.numel()),
        c_int(x.dtype == torch.bfloat16),
        c_int(torch.get_num_threads()),
    )
    return y
