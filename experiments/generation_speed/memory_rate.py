"""How fast this machine reads memory: what no engine can be faster than, since each new token needs all weights."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

READ_BYTES = 1 << 28
"""Many times a processor's caches, and read within a few milliseconds: one reading fits between two tokens."""
PASSES = 5


class MemoryReader:
    """Sums of numbers that lie in memory. Needs nothing of torch: its threads must not wait beside an engine's."""

    def __init__(self, threads: int, size_bytes: int = READ_BYTES) -> None:
        numbers = np.random.default_rng(0).integers(
            1 << 62, size=size_bytes // 8
        )  # not one page like another
        self._parts = np.array_split(numbers, threads)
        self._pool = ThreadPoolExecutor(threads)

    def rate(self) -> float:
        """Bytes/s, of reading all of it once, now."""
        begun_s = time.perf_counter()
        list(self._pool.map(np.add.reduce, self._parts))
        return sum(part.nbytes for part in self._parts) / (time.perf_counter() - begun_s)


def memory_rate(device: str, threads: int) -> float:
    """Bytes/s, the best of PASSES: others on the machine only lower it."""
    if device == "cuda":
        return gpu_rate()
    reader = MemoryReader(threads)
    return max(reader.rate() for _ in range(PASSES))


def gpu_rate(size_bytes: int = 1 << 31) -> float:
    """Bytes/s of torch's copy on a GPU, which reads and writes, both counted: the best of PASSES."""
    import torch

    source = torch.randint(127, (size_bytes,), dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    seconds = []
    for _ in range(PASSES):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        seconds.append(float(start.elapsed_time(end)) / 1e3)
    del source, target
    torch.cuda.empty_cache()
    return 2 * size_bytes / min(seconds)
