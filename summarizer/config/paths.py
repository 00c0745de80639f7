"""Where things lie: the config tree, what is embedded in the package, the cache."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
EMBEDDED_SCHEME = "embedded:"
"""Prefix of a path that lies inside the package, so that a run folder names it the same on every machine."""


def conf_folder() -> Path:
    """The config tree: inside an installed package, beside it in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


def cache_folder() -> Path:
    """Quantized bases and tokenized data: $SUMMARIZER_CACHE, or `summarizer` in the user's cache folder."""
    if chosen := os.environ.get("SUMMARIZER_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "summarizer"


def shown(path: Path) -> str:
    """A path as a person reads it: from where they are, if it lies below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def nearest_existing(path: Path) -> Path:
    """The path, or the nearest thing above it that is there."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def own_python() -> str:
    """What starts this very Python from the shell: `python`, unless its environment is not active there."""
    own, found = Path(sys.executable), shutil.which("python")
    if found is not None and Path(found).parent == own.parent:
        return "python"
    return shlex.quote(shown(own))


def resolve_path(path: str, embedded_root: str) -> Path:
    """A path as a config writes it: `embedded:x` is `x` below `embedded_root` in the package; `~` is home."""
    if path.startswith(EMBEDDED_SCHEME):
        return PACKAGE / embedded_root / path.removeprefix(EMBEDDED_SCHEME)
    return Path(path).expanduser()
