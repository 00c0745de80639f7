"""The package's C code: compiled once for this processor, kept in the cache folder, loaded, and called.

A source in `csrc/` becomes a library of its own when the first of its kernels is asked for, since each states which
instructions it needs and is refused by the compiler for a processor that lacks them.
"""

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
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from summarizer.config.paths import cache_folder

SOURCES = Path(__file__).with_name("csrc")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
LONGEST_COMPILATION_S = 60
OTHER_PROCESSOR = "made for processors that"
"""Words of the message with which a source refuses a processor that lacks the instructions it needs."""

log = logging.getLogger(__name__)

Structure = TypeVar("Structure", bound=ctypes.Structure)


# --- compiling and loading ----------------------------------------------------------------------------------------


@lru_cache
def library(source: str) -> ctypes.CDLL | None:
    """The compiled code of a source; None, said once in the log, without a compiler or on another processor.

    Its threads are torch's own: both ask for the same OpenMP library, which torch has loaded.
    """
    compiler = _compiler()
    suits = platform.system() == "Linux" and torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not suits or not compiler:
        log.debug("%s is not compiled: no Linux, no AVX-512 or no C compiler", source)
        return None
    compiled = _cached_path(source, compiler)
    try:
        if not _is_usable(compiled):
            _compile(compiler, SOURCES / source, compiled)
        return ctypes.CDLL(str(compiled))
    except (OSError, subprocess.SubprocessError) as error:
        why = _reason(error, source, compiler)
        _say(logging.DEBUG if OTHER_PROCESSOR in why else logging.INFO, why)
        return None


def available(source: str) -> bool:
    """Whether this machine has a processor that a source is made for, and a compiler for it."""
    return library(source) is not None


def _cached_path(source: str, compiler: list[str]) -> Path:
    """Where a source's library is kept: its name changes with all that its bytes depend on."""
    digest = hashlib.sha256()
    headers = b"".join(header.read_bytes() for header in sorted(SOURCES.glob("*.h")))
    code, command = (SOURCES / source).read_bytes(), " ".join(compiler).encode()
    for part in (code, headers, command, " ".join(FLAGS).encode(), _processor()):
        digest.update(hashlib.sha256(part).digest())
    return cache_folder() / "kernels" / f"{Path(source).stem}-{digest.hexdigest()[:16]}.so"


def _is_usable(compiled: Path) -> bool:
    """The one decision whether a library that lies in the cache folder is loaded; if not, it is compiled anew."""
    return compiled.is_file()


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
    """Log a reason once for all sources that fail for it."""
    log.log(level, "C code is not compiled for this processor, slower ways are taken: %s", why)


def _reason(error: Exception, source: str, compiler: list[str]) -> str:
    """The first line of a compiler's output that names an error, or the last."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{source} takes longer than {LONGEST_COMPILATION_S} s"
    if not isinstance(error, subprocess.CalledProcessError):
        return str(error)
    if lines := error.stderr.strip().splitlines():
        line = next((line for line in lines if "error" in line.lower()), lines[-1])
        return f"{source}: {line.strip()}"
    return f"`{shlex.join(compiler)}` ended with exit code {error.returncode} and said nothing"


# --- calling ------------------------------------------------------------------------------------------------------


def kernel(source: str, name: str) -> Any:
    """A function of a source that is `available`."""
    loaded = library(source)
    assert loaded is not None, f"{source} is not compiled here, which was not asked"
    return getattr(loaded, name)


def run(source: str, name: str, *arguments: Tensor | int | float | None) -> None:
    """Call a function of plain arguments, torch's number of threads behind them.

    A tensor, which has to be dense, becomes the address of its numbers; bool, int and float become C's int, long
    and float.
    """
    kernel(source, name)(*map(_in_c, arguments), ctypes.c_int(torch.get_num_threads()))


def structure(kind: type[Structure], **values: Any) -> Structure:
    """A C structure with the addresses of dense tensors, which must outlive its use; None is a null pointer."""
    for name, value in values.items():
        if isinstance(value, Tensor):
            values[name] = address(value)
    return kind(**values)


def address(tensor: Tensor) -> int:
    """Where C finds the numbers of a dense tensor."""
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def _in_c(argument: Tensor | int | float | None) -> Any:
    if argument is None or isinstance(argument, Tensor):
        return ctypes.c_void_p(None if argument is None else address(argument))
    if isinstance(argument, bool):
        return ctypes.c_int(argument)
    return ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_float(argument)


# --- torch's operators --------------------------------------------------------------------------------------------

_OPERATORS = torch.library.Library("summarizer", "FRAGMENT")


def define_operator(
    schema: str, compute: Callable[..., object], shaped: Callable[..., object], device: str = "CPU"
) -> None:
    """`torch.ops.summarizer.NAME` for a schema `NAME(...) -> ...`, so that a step on fake tensors can be planned.

    compute: on that device, as torch's dispatcher names it. shaped: its results without numbers in them. torch's
    custom_op would do the same, and take longer for it than a few rows take to be computed.
    """
    name = schema.split("(")[0]
    _OPERATORS.define(schema)
    _OPERATORS.impl(name, compute, device)
    _OPERATORS.impl(name, shaped, "Meta")


def is_eager(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether x is in that precision on a CPU, and torch.compile is making no graph of it."""
    return x.device.type == "cpu" and x.dtype == dtype and not torch.compiler.is_compiling()


def next_power_of_two(least: int) -> int:
    """The smallest power of two of at least `least`: the size of what a Triton program computes at once."""
    return 1 << (least - 1).bit_length()
