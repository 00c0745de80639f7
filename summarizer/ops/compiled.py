"""C code of this package, compiled once for the processor at hand and kept in the cache folder."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from summarizer.config.paths import cache_folder

FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
LONGEST_COMPILATION_S = 60
OTHER_PROCESSOR = "made for processors that"
"""Of the message with which a source refuses a processor that has not the instructions it needs."""

log = logging.getLogger(__name__)


@lru_cache
def library(source: Path) -> ctypes.CDLL | None:
    """The compiled code; None, said once in the log, where there is no compiler or the processor is not the one.

    Its threads are torch's own: both ask for the same OpenMP library, which torch has loaded.
    """
    compiler = _compiler()
    suits = platform.system() == "Linux" and torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not suits or not compiler:
        log.debug("%s is not compiled: no Linux, no AVX-512 or no C compiler", source.name)
        return None
    digest = hashlib.sha256()
    headers = b"".join(header.read_bytes() for header in sorted(source.parent.glob("*.h")))
    for part in (
        source.read_bytes(),
        headers,
        " ".join(compiler).encode(),
        " ".join(FLAGS).encode(),
        _processor(),
    ):
        digest.update(hashlib.sha256(part).digest())
    compiled = cache_folder() / "kernels" / f"{source.stem}-{digest.hexdigest()[:16]}.so"
    try:
        if not compiled.is_file():
            _compile(compiler, source, compiled)
        return ctypes.CDLL(str(compiled))
    except (OSError, subprocess.SubprocessError) as error:
        why = _reason(error, source, compiler)
        _say(logging.DEBUG if OTHER_PROCESSOR in why else logging.INFO, why)
        return None


def kernels(source: Path) -> ctypes.CDLL:
    """The same for who has asked whether there is any."""
    loaded = library(source)
    assert loaded is not None, f"{source.name} is not compiled here, which was not asked"
    return loaded


def place_of(tensor: Tensor | None) -> int | None:
    """Where C finds the numbers of a dense tensor, which must outlive the call; none of None."""
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()


def _compiler() -> list[str]:
    """The command that compiles C, as make and its like choose it; empty without one."""
    if chosen := os.environ.get("CC"):
        return shlex.split(chosen)
    return [found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))][:1]


def _compile(compiler: list[str], source: Path, target: Path) -> None:
    """Raises OSError or SubprocessError; a half-written library is never at `target`."""
    begun_s = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        subprocess.run(
            [*compiler, *FLAGS, str(source), "-o", str(made), "-lm"],
            check=True,
            capture_output=True,
            text=True,
            timeout=LONGEST_COMPILATION_S,
        )
        made.replace(target)
    log.info("%s compiled for this processor in %.1f s", source.name, time.monotonic() - begun_s)


def _processor() -> bytes:
    """What `-march=native` depends on: a cache folder may be shared by different machines."""
    path = Path("/proc/cpuinfo")
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return b"\n".join(sorted({line for line in lines if line.startswith((b"flags", b"model", b"Features"))}))


@lru_cache
def _say(level: int, why: str) -> None:
    """Once for all sources that fail for the same reason."""
    log.log(level, "C code is not compiled for this processor, slower ways are taken: %s", why)


def _reason(error: Exception, source: Path, compiler: list[str]) -> str:
    """Of what a compiler said, the first line that names an error, or the last."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{source.name} takes longer than {LONGEST_COMPILATION_S} s"
    if not isinstance(error, subprocess.CalledProcessError):
        return str(error)
    if lines := error.stderr.strip().splitlines():
        line = next((line for line in lines if "error" in line.lower()), lines[-1])
        return f"{source.name}: {line.strip()}"
    return f"`{shlex.join(compiler)}` ended with exit code {error.returncode} and said nothing"
