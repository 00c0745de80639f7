"""Keys of earlier versions: a command is told the new name, and a run folder that has them is read all the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from summarizer.errors import Issue

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gone:
    """A key that no other replaces."""

    means_nothing: object
    """The value under which a run of an earlier version is what it would be without the key."""
    instead: str
    """What to do without it, as the end of a sentence."""


RENAMED: Mapping[str, str] = {
    "sweep.places": "sweep.max_concurrent_trials",
    "hydra.launcher.over": "hydra.launcher.delegate",
}
"""The new name of each key by its old one."""

REMOVED: Mapping[str, Gone] = {
    "generation.backend": Gone("torch", "the project's own decoder writes every summary"),
}

ABSENT = object()


def take_old_keys(config: dict[str, Any]) -> Iterator[Issue]:
    """Take the keys of earlier versions out of a config, and say what each of them is called now."""
    for old, new in RENAMED.items():
        if _take(config, old) is not ABSENT:
            yield Issue(old, f"now {new}")
    for old, gone in REMOVED.items():
        if _take(config, old) is not ABSENT:
            yield Issue(old, f"is gone; {gone.instead}")


def translate_old_keys(config: dict[str, Any], source: str) -> None:
    """Give the config of an earlier version's run today's keys; what has no counterpart is dropped with a line.

    source: what the line names, such as the run's folder.
    """
    for old, new in RENAMED.items():
        value = _take(config, old)
        if value is not ABSENT:
            group, _, name = new.rpartition(".")
            node = _group(config, group)
            if node is not None:
                node.setdefault(name, value)
    for old, gone in REMOVED.items():
        value = _take(config, old)
        if value not in (ABSENT, gone.means_nothing):
            log.warning("%s: %s=%s is gone; %s", source, old, value, gone.instead)


def _take(config: dict[str, Any], key: str) -> Any:
    group, _, name = key.rpartition(".")
    node = _group(config, group)
    return ABSENT if node is None else node.pop(name, ABSENT)


def _group(config: dict[str, Any], group: str) -> dict[str, Any] | None:
    """The node at a dotted path, the config itself for an empty one; None where there is no group."""
    node: Any = config
    for part in group.split(".") if group else ():
        node = node.get(part) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else None
