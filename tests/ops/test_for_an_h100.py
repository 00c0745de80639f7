"""The kernels that no GPU here can run are at least compiled for one, by Triton alone."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_BYTES = 227 * 1024
"""That a block of threads can have. Source: CUDA C++ Programming Guide, compute capability 9.0."""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernels_compile_in_the_shapes_of_gptj(tmp_path: Path) -> None:
    """In a process of its own: in this one they may be interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("for_an_h100.py"))],
        capture_output=True,
        text=True,
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ran.returncode == 0, ran.stderr
    kernels = {told["kernel"]: told for told in map(json.loads, ran.stdout.splitlines())}
    assert len(kernels) == 9
    for name, told in kernels.items():
        assert told["shared_bytes"] <= SHARED_BYTES, told
        assert told["local_bytes"] == 0, told
        if name.startswith(("rows", "attend")):
            assert told["copies_of_16_bytes"] > 0, told
            assert told["matrix_units"] == (name != "rows 1"), told
