"""The processes that share one run's batches: accelerate, in one place."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from summarizer import compat, heartbeat
from summarizer.errors import ConfigError, ProcessLostError

Item = TypeVar("Item")

Precision = Literal["fp32", "bf16", "fp16"]
"""Of matrix products; all else is in fp32."""
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Processes:
    """This process's place among those of the run."""

    accelerator: Accelerator
    precision: Precision

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products."""
        return DTYPES[self.precision]

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def count(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @property
    def device(self) -> torch.device:
        return torch.device(self.accelerator.device)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Within the block, products are taken in the run's precision."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's part of a list; `gathered` puts the parts together again in the same order."""
        return list(items[self.rank :: self.count])

    def gathered(self, own: list[Item]) -> list[Item]:
        """All items in the order that they had before `share`, on every process."""
        if self.count == 1:
            return own
        parts: list[list[Item]] = [[] for _ in range(self.count)]
        with self._in_touch():
            for rank, part in gather_object([(self.rank, own)]):
                parts[rank] = part
        longest = max(len(part) for part in parts)
        return [part[i] for i in range(longest) for part in parts if i < len(part)]

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over processes, on every process."""
        if self.count == 1:
            return tensor
        with self._in_touch():
            total: Tensor = self.accelerator.reduce(tensor, reduction="sum")
        return total

    def agreed(self, value: Any) -> Any:
        """The main process's value, on every process."""
        if self.count == 1:
            return value
        with self._in_touch():
            return broadcast_object_list([value])[0]

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block (and fills a cache), then the others do (and read it)."""
        with self._in_touch(), self.accelerator.main_process_first():
            yield

    @contextlib.contextmanager
    def _in_touch(self) -> Iterator[None]:
        """For the block, in which the processes wait for each other.

        Raises ProcessLostError for an error that comes of others being gone.
        """
        try:
            yield
        except RuntimeError as error:
            if self.count > 1 and (gone := heartbeat.heartbeat().lost()):
                raise ProcessLostError(gone) from error
            raise


def join_processes(*, device: str, precision: str, wanted: int | None) -> Processes:
    """Join the processes that a launcher started, or be the only one.

    device: auto, cpu or cuda.  precision: of trainer.precision, auto or one of Precision.
    wanted: how many the config asks for, None for as many as there are.
    Raises ConfigError where fewer or more were started, or the device lacks the precision.
    """
    on_gpu = device != "cpu" and torch.cuda.is_available()
    chosen = choose_precision(precision, on_gpu=on_gpu, native_bf16=multiplies_bf16(on_gpu=on_gpu))
    accelerator = _accelerator(on_gpu=on_gpu)
    found = int(accelerator.num_processes)
    wanted = wanted or int(os.environ.get("WORLD_SIZE", 1))
    if found != wanted:
        raise ConfigError.single("trainer.processes", f"asked for {wanted}, but {found} of them started")
    log.info(
        "device: %s, %s matmuls, %d process%s",
        accelerator.device,
        chosen,
        accelerator.num_processes,
        "" if accelerator.num_processes == 1 else "es",
    )
    if chosen == "fp16" and not on_gpu:
        log.warning(
            "fp16 matmuls are very slow on a CPU; trainer.precision=auto takes the fastest that it has"
        )
    if found > 1:
        heartbeat.heartbeat()
    return Processes(accelerator, chosen)


def _accelerator(*, on_gpu: bool) -> Accelerator:
    """It shares accelerate's state of this process, unless a run alone wants another device than the one before."""
    if is_initialized() and (AcceleratorState().device.type != "cpu") != on_gpu:
        before = AcceleratorState()
        if before.num_processes > 1:
            shared = f"the processes of this launch share {before.device.type}"
            raise ConfigError.single("trainer.device", f"{shared}; give runs for another device their own")
        compat.forget_processes()
    # Of its precisions it is told none: with fp16 it would scale every loss by one scaler of its own.
    return Accelerator(mixed_precision="no", cpu=not on_gpu)


def choose_precision(wanted: str, *, on_gpu: bool, native_bf16: bool) -> Precision:
    """The precision of products on a device that has bf16 or not.

    auto: bf16 where it is native, else fp16 on a GPU, whose fp32 products are several times slower, and fp32 on
    a processor. Raises ConfigError for bf16 on a GPU without it.
    """
    if wanted == "auto":
        return "bf16" if native_bf16 else "fp16" if on_gpu else "fp32"
    if wanted == "bf16" and on_gpu and not native_bf16:
        raise ConfigError.single("trainer.precision", "'bf16': this GPU has no bf16; use fp16, or auto")
    (chosen,) = (known for known in DTYPES if known == wanted)
    return chosen


def multiplies_bf16(*, on_gpu: bool) -> bool:
    """Whether the device has instructions for bf16 products, rather than converting to fp32 and back."""
    if on_gpu:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def keep_freed_memory() -> None:
    """Let this process keep the memory that its tensors free, for those of the next step.

    glibc gives large blocks back at once and takes them anew, page by page, each page faulting: 34,000 times in a
    step of SmolLM2-135M at 1,024 tokens, and fewer than 4,000 times with this (measured on two cores; the step took
    3.5 s without and 2.5 to 3.0 s with it). Other C libraries are left as they are.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)


def give_back_freed_memory() -> None:
    """Give the system what `keep_freed_memory` keeps: for when tensors of other sizes come than were freed.

    A sweep whose trials come and go would else hold more with each: blocks of one size leave gaps of another.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


class FreedMemory:
    """Bounds what `keep_freed_memory` makes a process that trains keep: steps of other lengths leave other gaps.

    Measured on six trials of SmolLM2-135M: each step of new lengths held about 0.2 GiB more than the one before,
    7.0 GiB after the first and 9.9 after the fifteenth, where little more than 6 were in use.
    """

    SLACK, SLACK_BYTES = 0.25, 512 * 2**20
    """Of what a step had in use, and at least: so much more may be held."""
    STEPS_BETWEEN = 8
    """Once it was given back. The next step's pages fault once more, which takes it some hundredths longer."""

    def __init__(self) -> None:
        self._most_in_use_bytes = 0
        self._steps_to_wait = 0

    def note_use(self) -> None:
        """To be called where a step has the most in use: between its two passes."""
        self._most_in_use_bytes = max(self._most_in_use_bytes, allocated_bytes() or 0)

    def bound(self) -> bool:
        """After a step, give freed memory back if too much is held. Returns whether it was."""
        most, self._most_in_use_bytes = self._most_in_use_bytes, 0
        self._steps_to_wait = max(self._steps_to_wait - 1, 0)
        too_much = anonymous_bytes() - most > max(self.SLACK * most, self.SLACK_BYTES)
        if most == 0 or self._steps_to_wait or not too_much:
            return False
        give_back_freed_memory()
        self._steps_to_wait = self.STEPS_BETWEEN
        return True


def allocated_bytes() -> int | None:
    """What is allocated in this process and not freed, by glibc; None where there is none, or one before 2.33."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return None
    library.mallinfo2.restype = _Allocated
    found = library.mallinfo2()
    return int(found.uordblks + found.hblkhd)


def anonymous_bytes() -> int:
    """What this process holds of memory that is no file's, in the system's eyes; 0 where it does not say."""
    try:
        resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    except OSError:
        return 0
    return (resident - shared) * mmap.PAGESIZE


class _Allocated(ctypes.Structure):
    """`struct mallinfo2` of glibc's malloc.h, the sum of all arenas."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of settings in glibc's malloc.h."""
LARGEST_INT = 2**31 - 1


def leave_processes() -> None:
    """End the process group, so that nothing warns at exit and the next one can start."""
    heartbeat.leave()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        compat.forget_processes()
