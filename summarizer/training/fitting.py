"""How much fits into a device's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import torch

CONTROL_GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = ("memory.max", "memory.current", "inactive_file")
"""A control group's limit, what it uses, and how much of that is files read before, which it gives up when asked.

Source: the kernel's admin-guide/cgroup-v1/memory and admin-guide/cgroup-v2.
"""


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

    On the CPU: what the system can give without swapping, and no more than a container's limit leaves.
    """
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return int(free_bytes + torch.cuda.memory_reserved(device))
    return min([int(psutil.virtual_memory().available), *_left_by_limits()])


def _left_by_limits() -> Iterator[int]:
    """What each limit leaves on the memory of this process's control group and of those around it, in bytes."""
    if not OWN_GROUPS.is_file():
        return
    for line in OWN_GROUPS.read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if not controllers:
            root, (limit, used, files) = CONTROL_GROUPS, VERSION_2
        elif "memory" in controllers.split(","):
            root, (limit, used, files) = CONTROL_GROUPS / "memory", VERSION_1
        else:
            continue
        # Inside a container the root is its own group, below which the path as the host knows it is not there.
        group = root / own.strip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root) or not (folder / limit).is_file():
                continue
            if (most := (folder / limit).read_text().strip()) == "max":
                continue
            counts = dict(count.split() for count in (folder / "memory.stat").read_text().splitlines())
            used_bytes = int((folder / used).read_text()) - int(counts.get(files, 0))
            yield max(int(most) - used_bytes, 0)
