"""What a run's base model is called elsewhere, and what a person says of the model to the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from summarizer.config.paths import EMBEDDED_SCHEME, resolve_path
from summarizer.models.source import EMBEDDED_ROOT


@dataclass(frozen=True)
class CardFacts:
    """What a model card says to the hub that no run knows; empty where nobody said."""

    license: str | None = None
    language: tuple[str, ...] = ()
    base: str | None = None
    """What the base model is called on the hub."""


def is_hub_name(name_or_path: str) -> bool:
    """Whether `model.name_or_path` names a model of the hub rather than a folder."""
    if name_or_path.startswith((EMBEDDED_SCHEME, "/", ".", "~")) or "\\" in name_or_path:
        return False
    return name_or_path.count("/") <= 1 and not resolve_path(name_or_path, EMBEDDED_ROOT).is_dir()


def last_part(path: str) -> str:
    """The end of a path, or of `embedded:NAME`: all of it that means something on another machine."""
    return PurePath(path.removeprefix(EMBEDDED_SCHEME).replace("\\", "/")).name or path


def base_name(name_or_path: str) -> str:
    """A hub name as it is, of anything else the last part."""
    return name_or_path if is_hub_name(name_or_path) else last_part(name_or_path)
