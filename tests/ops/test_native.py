"""Compiled code that lies in the cache folder: used as it was made, or made anew."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from summarizer.ops import native

SOURCE = "elementwise.c"
ADD = """
import logging, torch
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
from summarizer.ops import elementwise
print(elementwise.is_recordable(torch.ones(1)), elementwise.add_(torch.ones(3), torch.full((3,), 2.0)).tolist())
"""
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda code: code[: len(code) // 2],
    "zeroed": lambda code: bytes(len(code)),
    "empty": lambda code: b"",
    "one byte flipped": lambda code: code[:4000] + bytes([code[4000] ^ 0xFF]) + code[4001:],
}
pytestmark = pytest.mark.skipif(not native.available(SOURCE), reason="nothing is compiled here")


def add_in_a_process(cache: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SUMMARIZER_CACHE": str(cache)}
    command = [sys.executable, "-c", ADD]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which an earlier command has compiled its code."""
    cache = tmp_path_factory.mktemp("compiled")
    first = add_in_a_process(cache)
    assert first.stdout == "True [3.0, 3.0, 3.0]\n", first.stderr
    assert "INFO elementwise.c compiled for this processor in" in first.stderr
    return cache


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_code_is_made_anew_and_the_log_says_so(what: str, compiled: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(compiled, tmp_path / "cache")
    (code,) = (cache / "kernels").iterdir()
    code.write_bytes(DAMAGE[what](code.read_bytes()))
    after = add_in_a_process(cache)
    assert (after.returncode, after.stdout) == (0, "True [3.0, 3.0, 3.0]\n"), after.stderr
    assert after.stderr.count(f"WARNING elementwise.c: its compiled code in {code} is damaged") == 1
    assert after.stderr.count("INFO elementwise.c compiled for this processor in") == 1
    (made,) = (cache / "kernels").iterdir()
    assert made.read_bytes() == next((compiled / "kernels").iterdir()).read_bytes()


def test_sound_code_is_used_as_it_is_and_nothing_is_said(compiled: Path) -> None:
    (code,) = (compiled / "kernels").iterdir()
    written = code.stat().st_mtime_ns
    again = add_in_a_process(compiled)
    assert (again.stdout, again.stderr) == ("True [3.0, 3.0, 3.0]\n", "")
    assert [(one, one.stat().st_mtime_ns) for one in (compiled / "kernels").iterdir()] == [(code, written)]
