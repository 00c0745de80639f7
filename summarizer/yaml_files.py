"""YAML that may come from elsewhere: read as OmegaConf reads it, once it is known to be of a sane size."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # it ships no types
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from summarizer.files import read_own

MOST_BYTES = 2**20
MOST_NODES = 10_000
"""Keys, values and containers, each alias counted as what it stands for: nine lines of ten aliases are 10^9."""
MOST_LEVELS = 64
REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
"""An interpolation that names another key of the same config, and calls nothing."""


def read_yaml(path: Path) -> DictConfig | ListConfig:
    """The config in a file. Raises OSError, or ValueError with the reason in one line."""
    text = read_own(path, MOST_BYTES).decode("utf-8")
    try:
        _require_sane(text)
        return OmegaConf.load(io.StringIO(text))
    except (yaml.YAMLError, OmegaConfBaseException, OSError, AttributeError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _require_sane(text: str) -> None:
    """Raises ValueError where it nests too deep, or where its aliases, written out, are too many."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    size = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"line {event.start_mark.line + 1} repeats what has no end before it")
            size += sizes[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            size += 1
            if isinstance(event, yaml.ScalarEvent):
                if event.anchor:
                    sizes[event.anchor] = 1
            else:
                sizes.pop(event.anchor, None)
                open_nodes.append((event.anchor, size - 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = size - before
        if len(open_nodes) > MOST_LEVELS:
            raise ValueError(f"it nests deeper than {MOST_LEVELS} levels")
        if size > MOST_NODES:
            raise ValueError(f"it holds more than {MOST_NODES:,} keys and values, aliases written out")


def require_bounded(config: Mapping[Any, Any]) -> None:
    """Raises ValueError where the references of a plain config, resolved, would make too much of it.

    `${a}${a}` doubles a text, and a list of such a list: what is a line each grows by powers as aliases do.
    """
    sizes: dict[str, int] = {}

    def size_at(reference: str, step: int) -> int:
        if reference not in sizes:
            sizes[reference] = size_of(found_at(reference, step), step)
        return sizes[reference]

    def found_at(reference: str, step: int) -> Any:
        if step > MOST_LEVELS:
            raise ValueError(f"${{{reference}}} leads to itself, or over more than {MOST_LEVELS} other keys")
        node: Any = config
        for part in reference.split("."):
            if isinstance(node, str) and (whole := REFERENCE.fullmatch(node)):
                node = found_at(whole[1], step + 1)
            if isinstance(node, Mapping):
                node = node.get(part)
            elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
                node = node[int(part)]
            else:
                return None
        return node

    def size_of(node: Any, step: int) -> int:
        if isinstance(node, Mapping):
            size = sum(len(str(key)) + size_of(value, step) for key, value in node.items()) + 1
        elif isinstance(node, list):
            size = sum(size_of(value, step) for value in node) + 1
        elif isinstance(node, str):
            size = len(node) + sum(size_at(reference, step + 1) for reference in REFERENCE.findall(node))
        else:
            size = 1
        if size > MOST_BYTES:
            raise ValueError("its references, resolved, make more than a megabyte of it")
        return size

    size_of(config, 0)
