"""How much fits into a device's memory."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import torch


def largest_fitting(fits: Callable[[int], bool], upper: int) -> int:
    """The largest number from 1 to `upper` that fits, by bisection; 0 where even 1 does not.

    fits: true up to some number and false beyond it. It is asked about log2(upper) times, `upper` first.
    """
    if upper < 1 or fits(upper):
        return max(upper, 0)
    fitting, too_many = 0, upper
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if fits(middle):
            fitting = middle
        else:
            too_many = middle
    return fitting


def device_memory_bytes(device: torch.device) -> int:
    """What this process could hold there now: what is free, and on CUDA what torch's allocator has of it already.

    On the CPU: what the system can give without swapping.
    """
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return int(free_bytes + torch.cuda.memory_reserved(device))
    return int(psutil.virtual_memory().available)
