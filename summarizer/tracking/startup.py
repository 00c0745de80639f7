"""Where the time between the command and the end of the first step goes, part by part."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Stopwatch:
    """Each `lap` ends a part, which takes the time since the lap before it. Parts stand in the order of laps."""

    def __init__(self, begun_s: float, now_s: Callable[[], float] = time.perf_counter) -> None:
        """begun_s: when the first part began, on the clock `now_s`."""
        self.parts: dict[str, float] = {}
        """Seconds by name of the part."""
        self._now_s = now_s
        self._last_s = begun_s

    def lap(self, part: str, **inside: float) -> None:
        """End a part. inside: seconds of it that belong to other parts, by their names."""
        now_s = self._now_s()
        for other, seconds in inside.items():
            self._add(other, seconds)
        self._add(part, now_s - self._last_s - sum(inside.values()))
        self._last_s = now_s

    def restart(self) -> None:
        """Forget all parts and begin anew: what a later run of a sweep does."""
        self.parts = {}
        self._last_s = self._now_s()

    def describe(self) -> str:
        """`start-up: imports 3.1 s, compose 0.4 s; 3.5 s in all`."""
        listed = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in self.parts.items())
        return f"start-up: {listed}; {sum(self.parts.values()):.1f} s in all"

    def _add(self, part: str, seconds: float) -> None:
        self.parts[part] = self.parts.get(part, 0.0) + seconds


def since_process_start() -> Stopwatch:
    """A stopwatch that began when the operating system started this process.

    What passed since then is its first part: the interpreter's start, and the imports that the caller needed.
    """
    import psutil

    begun_s: float = psutil.Process().create_time()
    if sys.platform == "linux":
        # There it is the whole second of the boot, as proc_stat(5) has it, plus hundredths since: not clock time.
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - (begun_s - psutil.boot_time())
    else:
        age_s = time.time() - begun_s
    watch = Stopwatch(time.perf_counter() - age_s)
    watch.lap("imports")
    return watch
