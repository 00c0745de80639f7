"""How fast this machine reads memory: what no engine can be faster than, since each new token needs all weights."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import torch

PASSES = 5


def memory_rate(device: str, threads: int, size_bytes: int) -> dict[str, float]:
    """Bytes/s of each way to read `size_bytes` once, the best of PASSES; others on the machine only lower it.

    size_bytes: many times the caches. On a card torch's copy, which reads and writes, both counted.
    """
    if device == "cuda":
        return {"copy": _card_rate(size_bytes)}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        columns = 4096
        rows = size_bytes // columns
        stored = torch.ones(rows, columns, dtype=torch.int8)
        # The same memory as 32-bit numbers. 0x01010101 is a small, normal one: subnormal ones would be slow.
        floats = stored.view(torch.float32)
        x32, x16 = torch.ones(columns // 4), torch.ones(1, columns, dtype=torch.bfloat16)
        scales = torch.ones(rows, dtype=torch.bfloat16)
        ways: dict[str, Callable[[], object]] = {
            "sum of fp32": floats.sum,
            "fp32 matrix by vector": lambda: torch.mv(floats, x32),
            "int8 matrix by bf16 vector": lambda: torch._weight_int8pack_mm(x16, stored, scales),
        }
        return {name: stored.nbytes / min(_timed(way) for _ in range(PASSES)) for name, way in ways.items()}
    finally:
        torch.set_num_threads(before)
        del stored, floats, ways
        gc.collect()


def _timed(way: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    way()
    return time.perf_counter() - begun_s


def _card_rate(size_bytes: int) -> float:
    source = torch.ones(size_bytes, dtype=torch.int8, device="cuda")
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
