"""Tensors without numbers on a GPU that is not there: what a pass asks of a GPU, without one.

torch's CPU build lets fake tensors be "on cuda", but every index and copy first asks for the current GPU. The
guard that tensors on `meta` have, which does nothing, stands in for that.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

GPU = torch.device("cuda", 0)  # with its number, for which the guard would be asked
_CUDA, _META = 1, 14
"""Source: torch's c10/core/DeviceType.h."""
_GUARDS = "_ZN3c104impl26device_guard_impl_registryE"


def _guards() -> ctypes.Array[ctypes.c_void_p] | None:
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
        return (ctypes.c_void_p * (_META + 1)).in_dll(library, _GUARDS)
    except (OSError, ValueError):
        return None


@contextmanager
def fake_gpu() -> Iterator[FakeTensorMode]:
    """Within the block, tensors can be made on a GPU by the mode that it gives."""
    guards = _guards()
    if guards is None or torch.cuda.is_available():
        pytest.skip("needs torch's CPU build on Linux")
    before, guards[_CUDA] = guards[_CUDA], guards[_META]
    try:
        yield FakeTensorMode()
    finally:
        guards[_CUDA] = before


@contextmanager
def bf16_products() -> Iterator[None]:
    """`torch.autocast`, which switches itself off where it finds no GPU."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()
