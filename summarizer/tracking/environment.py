"""What a run ran on: versions, the checkout's commit, memory."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from summarizer import __version__
from summarizer.config.paths import PACKAGE
from summarizer.json_files import GitState

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets")
GIT_TIMEOUT_S = 10.0

log = logging.getLogger(__name__)


def versions() -> dict[str, str | None]:
    """Version of Python and of each package that decides on results; None for one that is not installed."""
    found: dict[str, str | None] = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found | {"summarizer": __version__}


def git_state(package: Path = PACKAGE) -> GitState | None:
    """Commit and cleanness (no changed and no new files) of the checkout that holds the package.

    None without git, or where the package is not part of a repository: an installed copy inside some other
    project's repository says nothing about this one.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain")
    if commit is None or changes is None:
        return None
    return GitState(commit=commit.strip(), dirty=bool(changes.strip()))


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held at once: by torch on a CUDA device, by this process on the CPU.

    Since `reset_peak_memory`, or since the process began where the system cannot reset it.
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    # ru_maxrss cannot be reset and, on Linux, a new process takes it over from its parent.
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        status = ""
    if found := re.search(r"^VmHWM:\s+(\d+) kB$", status, flags=re.MULTILINE):
        return int(found.group(1)) * 1024
    import resource

    unit_bytes = 1 if sys.platform == "darwin" else 1024  # getrusage(2) of macOS and of Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


def reset_peak_memory(device: torch.device) -> bool:
    """Begin a new peak, so that the runs of one process don't report each other's. False where impossible."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    except OSError as error:
        log.debug("peak memory counts from the start of the process: %s", error)
        return False
    return True


def _git(folder: Path, *arguments: str) -> str | None:
    # Inside a git hook, GIT_DIR and its like would name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.debug("no git state: %s", error)
        return None
    return done.stdout if done.returncode == 0 else None
