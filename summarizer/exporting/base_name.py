"""What a base is called where its path on this machine says nothing."""

from __future__ import annotations

from pathlib import PurePath

from summarizer.config.paths import EMBEDDED_SCHEME, resolve_path
from summarizer.models.source import EMBEDDED_ROOT


def is_hub_name(name_or_path: str) -> bool:
    """Whether `model.name_or_path` names a model of the hub rather than a folder."""
    if name_or_path.startswith((EMBEDDED_SCHEME, "/", ".", "~")) or "\\" in name_or_path:
        return False
    return name_or_path.count("/") <= 1 and not resolve_path(name_or_path, EMBEDDED_ROOT).is_dir()


def last_part(path: str) -> str:
    """Of a path, or of `embedded:NAME`: all of it that means something on another machine."""
    return PurePath(path.removeprefix(EMBEDDED_SCHEME).replace("\\", "/")).name or path


def base_name(name_or_path: str) -> str:
    """A hub name as it is, of anything else the last part."""
    return name_or_path if is_hub_name(name_or_path) else last_part(name_or_path)
