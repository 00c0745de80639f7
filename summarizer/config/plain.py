"""Configs as plain containers: a composed one with every interpolation resolved, or one option of `conf/`."""

from __future__ import annotations

from typing import Any

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from summarizer.config.paths import conf_folder
from summarizer.errors import Issue


def to_plain(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain containers, resolved.

    A value that is missing or cannot be resolved stays as its text, `???` or `${...}`, for `check` to report.
    """
    return plain_mapping(config, "", {})


def plain_mapping(node: DictConfig, path: str, open_keys: dict[str, Issue | None]) -> dict[str, Any]:
    """The node at `path` as plain containers, resolved.

    open_keys: gains each key without a value, and what is wrong with it.
    """
    raw = OmegaConf.to_container(node, resolve=False)
    assert isinstance(raw, dict)
    return {
        str(name): _plain_value(node, name, value, f"{path}.{name!s}" if path else str(name), open_keys)
        for name, value in raw.items()
    }


def _plain_value(
    node: DictConfig | ListConfig, name: Any, raw: Any, key: str, open_keys: dict[str, Issue | None]
) -> Any:
    """One value, resolved; where it has none, `open_keys` gains its key, with what is wrong."""
    try:
        value = node[name]
    except InterpolationToMissingValueError:
        open_keys[key] = None  # the value that it points to is reported
        return MISSING
    except MissingMandatoryValue:
        open_keys[key] = Issue(key, f"is required; give it as {key}=...")
        return MISSING
    except (OmegaConfBaseException, RecursionError) as error:
        reason = "it points to itself" if isinstance(error, RecursionError) else _reason(error)
        open_keys[key] = Issue(key, f"{raw!r} cannot be resolved: {reason}")
        return raw
    if isinstance(value, DictConfig):
        return plain_mapping(value, key, open_keys)
    if isinstance(value, ListConfig):
        items = OmegaConf.to_container(value, resolve=False)
        assert isinstance(items, list)
        return [_plain_value(value, index, item, key, open_keys) for index, item in enumerate(items)]
    return value


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0]
    return text.rpartition("raised while resolving interpolation: ")[2]


def read_option(group: str, option: str) -> dict[str, Any]:
    """The keys of one of `conf/`'s options, with those of the files that it builds on; nothing is interpolated."""
    own: Any = OmegaConf.load(conf_folder() / group / f"{option}.yaml")
    bases = [read_option(group, base) for base in own.pop("defaults", ())]
    found: Any = OmegaConf.to_container(OmegaConf.merge(*bases, own), resolve=False)
    keys: dict[str, Any] = found
    return keys
