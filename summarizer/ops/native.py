"""The package's C code: compiled once for this processor, kept in the cache folder, loaded, and called.

A source in `csrc/` becomes a library of its own when the first of its kernels is asked for, since each states which
instructions it needs and is refused by the compiler for a processor that lacks them. A library's name ends with a
digest of its bytes, which is checked before it is loaded: a damaged one would end the process with a signal.
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

from summarizer.atomic import SCRATCH_PREFIX, replace_durably
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
    try:
        return ctypes.CDLL(str(_cached(source, compiler) or _compile(source, compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        why = _reason(error, source, compiler)
        _say(logging.DEBUG if OTHER_PROCESSOR in why else logging.INFO, why)
        return None


def available(source: str) -> bool:
    """Whether this machine has a processor that a source is made for, and a compiler for it."""
    return library(source) is not None


def _cached(source: str, compiler: list[str]) -> Path | None:
    """The library that an earlier command compiled, if its bytes are what they were then.

    A damaged one is deleted and the log says so. Raises OSError where it cannot be read or deleted.
    """
    folder, known_by = _place(source, compiler)
    for compiled in sorted(folder.glob(f"{known_by}-*.so")):
        if compiled.stem == f"{known_by}-{_digest(compiled.read_bytes())}":
            return compiled
        log.warning("%s: its compiled code in %s is damaged and is made anew", source, compiled)
        compiled.unlink(missing_ok=True)
    return None


def _place(source: str, compiler: list[str]) -> tuple[Path, str]:
    """The folder where a source's library is kept, and how its name begins: with all that its bytes depend on."""
    headers = b"".join(header.read_bytes() for header in sorted(SOURCES.glob("*.h")))
    code, command = (SOURCES / source).read_bytes(), " ".join(compiler).encode()
    parts = (code, headers, command, " ".join(FLAGS).encode(), _processor())
    made_of = _digest(b"".join(hashlib.sha256(part).digest() for part in parts))
    return cache_folder() / "kernels", f"{Path(source).stem}-{made_of}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _compiler() -> list[str]:
    """The command that compiles C, as make and its like choose it; empty without one."""
    if chosen := os.environ.get("CC"):
        return shlex.split(chosen)
    return [found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))][:1]


def _compile(source: str, compiler: list[str]) -> Path:
    """Where the library is. Raises OSError or SubprocessError; a half-written one never has a library's name."""
    begun_s = time.monotonic()
    place, known_by = _place(source, compiler)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=place) as folder:
        made = Path(folder) / "made.so"
        subprocess.run(
            [*compiler, *FLAGS, str(SOURCES / source), "-o", str(made), "-lm"],
            check=True,
            capture_output=True,
            text=True,
            timeout=LONGEST_COMPILATION_S,
        )
        compiled = place / f"{known_by}-{_digest(made.read_bytes())}.so"
        replace_durably(made, compiled)
    log.info("%s compiled for this processor in %.1f s", source, time.monotonic() - begun_s)
    return compiled


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
