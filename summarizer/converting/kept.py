"""What was converted, in the cache folder: made by one process while others wait, whole or not at all."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from summarizer import atomic
from summarizer.config.paths import cache_folder
from summarizer.console.progress import working
from summarizer.errors import ConfigError

if TYPE_CHECKING:
    from filelock import FileLock

T = TypeVar("T")

ENTRY, LOCK, RECORD = "entry", "lock", "entry.json"

log = logging.getLogger(__name__)


def kept(home: Path, build: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """What `read` makes of the folder that `build` fills, which is kept below `home` for the next time.

    An entry is made anew where its files are not as long as they were, or `read` raises RuntimeError or OSError.
    Raises ConfigError where the cache cannot be written, and whatever `build` raises.
    """
    entry = home / ENTRY
    with _locked(home):
        if entry.exists():
            try:
                _check(entry)
                return read(entry)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
                log.warning(
                    "%s is damaged and made anew: %s", entry, str(error).strip().splitlines()[-1].strip()
                )
        atomic.remove_scratch(home)
        with atomic.new_folder(entry) as scratch:
            build(scratch)
            sizes = {file.name: file.stat().st_size for file in scratch.iterdir()}
            (scratch / RECORD).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")
        return read(entry)


def require_room(needed_bytes: int) -> None:
    """Raises ConfigError where the disk with the cache folder has fewer bytes left."""
    folder = cache_folder().absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed_bytes > free:
        raise ConfigError.single(
            "--backend",
            f"converting needs {needed_bytes / 1e9:.2f} GB in the cache folder {folder}, whose disk has "
            f"{free / 1e9:.2f} GB left; set $SUMMARIZER_CACHE to a folder on another one",
        )


def _locked(home: Path) -> FileLock:
    """Entered, it holds the lock, which the system lets go of with the process, however that ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(home / LOCK)
    try:
        home.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            with working("waiting for another process, which converts the same run"):
                lock.acquire()
    except OSError as error:
        raise ConfigError.single(
            "",
            f"the cache folder {cache_folder()} cannot be written ({error.strerror}); set $SUMMARIZER_CACHE",
        ) from error
    return lock


def _check(entry: Path) -> None:
    """Raises ValueError, KeyError, TypeError or OSError for an entry that is not as it was written."""
    sizes = json.loads((entry / RECORD).read_text(encoding="utf-8"))
    for name, size in sizes.items():
        if (found := (entry / name).stat().st_size) != size:
            raise ValueError(f"{name} has {found} bytes of {size}")
