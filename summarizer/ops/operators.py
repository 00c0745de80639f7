"""Kernels as torch's operators, so that a step on fake tensors can be planned."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_int, c_long, c_void_p

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("summarizer", "FRAGMENT")


def define(
    schema: str, compute: Callable[..., object], made: Callable[..., object], device: str = "CPU"
) -> None:
    """`torch.ops.summarizer.NAME` for a schema `NAME(...) -> ...`, without a graph.

    compute: on that device, as torch's dispatcher names it. made: what it makes, without numbers in it. torch's
    custom_op would do the same, and take longer for it than a few rows take to be computed.
    """
    name = schema.split("(")[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, compute, device)
    _LIBRARY.impl(name, made, "Meta")


def is_eager(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether x is in that precision on a CPU, and torch.compile is making no graph of it."""
    return x.device.type == "cpu" and x.dtype == dtype and not torch.compiler.is_compiling()


def numbers_of(tensor: Tensor) -> c_void_p:
    """Where a kernel finds them. The tensor must outlive the call."""
    return c_void_p(tensor.data_ptr())


def count(number: int) -> c_long:
    return c_long(number)


def threads() -> c_int:
    """As many as torch uses."""
    return c_int(torch.get_num_threads())
