"""A command as a process of its own: its seconds, its CPU seconds, and the memory that it and its children held."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
EVERY_S = 0.05
"""Between two looks. `VmHWM` remembers what came between them, but for a process's very last moments."""
LINES = re.compile(rb"^(VmHWM|RssAnon|RssFile):\s+(\d+) kB$", re.MULTILINE)
"""Of /proc/PID/status: the most that was ever resident, and what is, by where it comes from."""


@dataclass(frozen=True)
class Look:
    """What the process and its children held at one moment, in bytes, added up."""

    at_s: float
    anonymous_bytes: int
    file_bytes: int
    """Mapped files, such as libraries and the base's weights; those shared by processes count in each."""


@dataclass(frozen=True)
class Seen:
    """One command, from its start to its end."""

    seconds: float
    cpu_s: float
    """User and system, with its children."""
    peak_bytes: int
    """VmHWM of the process that had the most."""
    anonymous_bytes: int
    """The most that all of its processes held at once in memory of their own, as looked at."""
    looks: Sequence[Look] = field(default=(), repr=False)
    lines: Sequence[tuple[float, str]] = field(default=(), repr=False)
    """What it said, and when."""


def watched(
    command: Sequence[str | Path], *, cwd: Path = REPOSITORY, environment: Mapping[str, str] | None = None
) -> Seen:
    """Run `python COMMAND`. Raises RuntimeError where it fails, with the end of what it said."""
    begun_s = time.perf_counter()
    started = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines: list[tuple[float, str]] = []
    assert started.stdout is not None
    reading = threading.Thread(target=_read, args=(started.stdout, lines, begun_s), daemon=True)
    reading.start()
    looks: list[Look] = []
    peaks: dict[int, int] = {}
    while True:
        pid, status, usage = os.wait4(started.pid, os.WNOHANG)
        if pid:
            break
        looks.append(_look(started.pid, peaks, time.perf_counter() - begun_s))
        time.sleep(EVERY_S)
    seconds = time.perf_counter() - begun_s
    started.returncode = os.waitstatus_to_exitcode(status)
    reading.join()
    if started.returncode:
        said = "\n".join(line for _, line in lines[-30:])
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {started.returncode}:\n{said}")
    return Seen(
        seconds,
        usage.ru_utime + usage.ru_stime,
        max(peaks.values(), default=0),
        max((look.anonymous_bytes for look in looks), default=0),
        looks,
        lines,
    )


def _read(stream: object, lines: list[tuple[float, str]], begun_s: float) -> None:
    for line in stream:  # type: ignore[attr-defined]
        lines.append((time.perf_counter() - begun_s, line.decode(errors="replace").rstrip()))


def _look(root: int, peaks: dict[int, int], at_s: float) -> Look:
    """At a process and its children; what ended meanwhile counts as nothing."""
    anonymous = mapped = 0
    try:
        pids = [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    except psutil.Error:
        pids = [root]
    for pid in pids:
        try:
            content = Path(f"/proc/{pid}/status").read_bytes()
        except OSError:
            continue
        found = {name: int(kib) * 1024 for name, kib in LINES.findall(content)}
        peaks[pid] = max(peaks.get(pid, 0), found.get(b"VmHWM", 0))
        anonymous += found.get(b"RssAnon", 0)
        mapped += found.get(b"RssFile", 0)
    return Look(at_s, anonymous, mapped)
