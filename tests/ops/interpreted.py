"""Triton's kernels on a processor, by triton's own interpreter; None where triton is not installed."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest
import torch


def _interpreted() -> bool:
    """Kernels become what they will be, compiled or interpreted, when their module is imported."""
    if torch.cuda.is_available() or importlib.util.find_spec("triton") is None or "triton" in sys.modules:
        return False
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TRITON_INTERPRET", "1")
        import triton.runtime.interpreter as interpreter

        from summarizer.ops import decode_attention_triton  # noqa: F401 - made interpreted ones now
    _multiply_bf16_as_numbers(interpreter)
    return True


def _multiply_bf16_as_numbers(interpreter: Any) -> None:
    """numpy has no bf16: triton 3.9's interpreter keeps its bits in uint16, but multiplies these as if they were
    numbers, and puts whole numbers there as they are."""
    builder = interpreter.InterpreterBuilder
    create_dot, create_si_to_fp = builder.create_dot, builder.create_si_to_fp

    def as_numbers(handle: Any) -> Any:
        if handle.dtype.scalar != interpreter.tl.bfloat16:
            return handle
        numbers = (handle.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(numbers, interpreter.tl.float32)

    def si_to_fp(own: Any, whole: Any, wanted: Any) -> Any:
        if wanted.scalar != interpreter.tl.bfloat16:
            return create_si_to_fp(own, whole, wanted)
        numbers = whole.data.astype(np.float32)
        return own.create_fp_trunc(interpreter.TensorHandle(numbers, interpreter.tl.float32), wanted)

    builder.create_dot = lambda own, a, b, *more: create_dot(own, as_numbers(a), as_numbers(b), *more)
    builder.create_si_to_fp = si_to_fp


interpreted = pytest.mark.skipif(
    not _interpreted(), reason="triton is not installed, or runs on a GPU, where tests marked gpu serve"
)


@pytest.fixture
def interpreting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels ask again as they run."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
