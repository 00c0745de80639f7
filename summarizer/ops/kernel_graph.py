"""A kernel graph: kernels of C, recorded once, then run as often as wanted without Python between them.

A token is some hundred kernels of less than a millisecond each, and the Python ahead of each one finds the
processor's caches full of weights: of four blocks of GPT-J-6B it took about a sixth of a token's time. This is for
a CPU what a CUDA graph is for a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from summarizer import compat
from summarizer.ops import native

SOURCE = "kernel_graph.c"
MAX_ARGUMENTS = 4
"""Arguments that a kernel can take."""

Argument = ctypes.Structure | Tensor


class NotRecordableError(Exception):
    """What a model computes has a part that no kernel stands for; the model has to run uncaptured."""


class _Call(ctypes.Structure):
    """`Call` of kernel_graph.c."""

    _fields_ = [("kernel", ctypes.c_void_p), ("arguments", ctypes.c_void_p * MAX_ARGUMENTS)]


@dataclass
class KernelGraph:
    """Calls in their order, and the memory that they read and write, which stays as long as the graph."""

    names: list[str] = field(default_factory=list)
    """Each call's kernel."""
    _calls: list[_Call] = field(default_factory=list)
    _keeps: list[tuple[object, ...]] = field(default_factory=list)

    def add(self, kernel: Any, arguments: Sequence[Argument], keeps: Sequence[object]) -> None:
        """Append a call. keeps: whatever holds the memory that structures among the arguments point to."""
        entry = ctypes.cast(kernel, ctypes.c_void_p).value
        addresses = (ctypes.c_void_p * MAX_ARGUMENTS)(*map(_address, arguments))
        self.names.append(kernel.__name__)
        self._calls.append(_Call(entry, addresses))
        self._keeps.append((kernel, *arguments, *keeps))

    def last_uses(self, tensor: Tensor) -> bool:
        """Whether the last call reads or writes this tensor's own memory, not that of a copy."""
        place = tensor.data_ptr()
        kept = self._keeps[-1] if self._keeps else ()
        return any(isinstance(one, Tensor) and one.data_ptr() == place for one in kept)

    def run(self) -> None:
        """Raises MemoryError where a kernel found no memory for what it keeps while it runs."""
        calls = (_Call * len(self._calls))(*self._calls)
        if failed := native.kernel(SOURCE, "run_calls")(calls, ctypes.c_long(len(calls))):
            raise MemoryError(f"no memory in {self.names[failed - 1]}")


_recording: ContextVar[KernelGraph | None] = ContextVar(
    "the kernel graph that is being recorded", default=None
)
"""Each thread's own, as all context variables are."""


@contextmanager
def recorded() -> Iterator[KernelGraph]:
    """Within the block, kernels are not run but recorded; what they would have written is left as it is.

    An operation that has no such kernel for what it is given raises NotRecordableError.
    """
    graph = KernelGraph()
    token = _recording.set(graph)
    try:
        yield graph
    finally:
        _recording.reset(token)


def is_recording() -> bool:
    """Whether this thread is within `recorded`, so that an operation has to be its kernel or to refuse."""
    # A compiler knows no context variables, and compiles for training alone.
    return not torch.compiler.is_compiling() and _recording.get() is not None


def require(recordable: bool, what: str) -> None:
    """While recording, raises NotRecordableError unless it holds. what: the operation, for the reason."""
    if not recordable and is_recording():
        raise NotRecordableError(what)


def require_last(x: Tensor, y: Tensor, what: str) -> None:
    """While recording, raises NotRecordableError unless the last kernel makes y of x, and nothing else changed y.

    torch's way, which a layer takes for want of a kernel, would run now and never again; and what an adapter added
    by torch would be in this y alone.
    """
    if not is_recording():
        return
    graph = _recording.get()
    assert graph is not None
    made = y.is_contiguous() and graph.last_uses(x) and graph.last_uses(y)
    require(made and compat.was_never_written_in_place(y), what)


def call(kernel: Any, *arguments: Argument, keeps: Sequence[object] = ()) -> None:
    """Run a kernel of C, or record it.

    keeps: whatever holds the memory that structures among the arguments point to.
    Raises MemoryError where the kernel found no memory for what it keeps while it runs.
    """
    graph = _recording.get()
    if graph is not None:
        graph.add(kernel, arguments, keeps)
    elif kernel(*(ctypes.c_void_p(_address(one)) for one in arguments)):
        raise MemoryError(f"no memory in {kernel.__name__}")


def _address(one: Argument) -> int:
    return one.data_ptr() if isinstance(one, Tensor) else ctypes.addressof(one)
