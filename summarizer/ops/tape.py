"""A tape of kernel calls: taken down once, then run as often as wanted without Python between the calls.

A token is some hundred kernels of less than a millisecond each, and the Python ahead of each one finds the
processor's caches full of weights: of four blocks of GPT-J-6B it took about a sixth of a token's time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from summarizer.ops.compiled import kernels, library

SOURCE = Path(__file__).with_name("tape.c")
MOST_GIVEN = 4
"""Arguments of a kernel."""

Given = ctypes.Structure | Tensor


class _Call(ctypes.Structure):
    """`Call` of tape.c."""

    _fields_ = [("kernel", ctypes.c_void_p), ("given", ctypes.c_void_p * MOST_GIVEN)]


@dataclass
class Tape:
    """Calls in their order, and the memory that they read and write, which stays as long as the tape."""

    names: list[str] = field(default_factory=list)
    """Of the kernels."""
    _calls: list[_Call] = field(default_factory=list)
    _uses: list[tuple[object, ...]] = field(default_factory=list)

    @staticmethod
    def is_at_hand() -> bool:
        """Whether this machine has a processor and a compiler for it."""
        return library(SOURCE) is not None

    def add(self, kernel: Any, given: Sequence[Given], uses: Sequence[object]) -> None:
        address = ctypes.cast(kernel, ctypes.c_void_p).value
        addresses = (ctypes.c_void_p * MOST_GIVEN)(*(_address(one) for one in given))
        self.names.append(kernel.__name__)
        self._calls.append(_Call(address, addresses))
        self._uses.append((kernel, *given, *uses))

    def last_uses(self, tensor: Tensor) -> bool:
        """Whether the last call reads or writes this tensor's own memory, not that of a copy."""
        address = tensor.data_ptr()
        return any(isinstance(used, Tensor) and used.data_ptr() == address for used in self._uses[-1])

    def run(self) -> None:
        """Raises MemoryError where a kernel found no memory for what it keeps while it runs."""
        calls = (_Call * len(self._calls))(*self._calls)
        if failed := kernels(SOURCE).run_calls(calls, ctypes.c_long(len(calls))):
            raise MemoryError(f"no memory in {self.names[failed - 1]}")


_tape: Tape | None = None


@contextmanager
def taken_down() -> Iterator[Tape]:
    """Within the block, kernels are not run but put on a tape; what they would have written is left as it is.

    Not for two threads at once.
    """
    global _tape
    before, _tape = _tape, Tape()
    try:
        yield _tape
    finally:
        _tape = before


def call(kernel: Any, *given: Given, uses: Sequence[object] = ()) -> None:
    """Run a kernel of C, or put it on the tape.

    uses: whatever holds the memory that structures among `given` point to.
    Raises MemoryError where the kernel found no memory for what it keeps while it runs.
    """
    if _tape is not None:
        _tape.add(kernel, given, uses)
    elif kernel(*(ctypes.c_void_p(_address(one)) for one in given)):
        raise MemoryError(f"no memory in {kernel.__name__}")


def _address(one: Given) -> int:
    return one.data_ptr() if isinstance(one, Tensor) else ctypes.addressof(one)
