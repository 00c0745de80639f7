"""A run's name, from what its command changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from summarizer.console.trial_lines import short_key

MAX_CHARACTERS = 128
"""The longest name that wandb takes."""

_SECRET_KEY = re.compile(
    r"(?i)(^|[._-])(api_?key|passw(or)?d|secret|credentials?|(?<!completion_)(?<!end_)token)$"
)
_SECRET_VALUE = re.compile(
    r"(?i)\bhf_[a-z0-9]{20,}|\bsk-[\w-]{20,}|\bgh[pousr]_[a-z0-9]{20,}|://[^/\s:@]+:[^/\s@]+@"
)


def run_name(overrides: Sequence[str]) -> str:
    """Overrides as one line: `adapter.dim=2 optimizer.lr=1e-4` is "dim=2 lr=1e-4"; "default" without any.

    A key keeps as many of its parts as tell it from the others. What does not change the run (tracking,
    Hydra's own) is left out, and values that look secret are ***. A name too long for wandb ends in a hash.
    """
    parts = [_key_and_value(override) for override in overrides]
    parts = [(key, value) for key, value in parts if re.split(r"[./]", key)[0] not in {"tracking", "hydra"}]
    keys = [key.removeprefix("~") for key, _ in parts]
    words = (
        key[: key.startswith("~")]
        + short_key(key.removeprefix("~"), keys)
        + ("" if value is None else f"={'***' if _is_secret(key, value) else value}")
        for key, value in parts
    )
    name = " ".join(words) or "default"
    if len(name) <= MAX_CHARACTERS:
        return name
    ending = "…" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return name[: MAX_CHARACTERS - len(ending)] + ending


def redact(override: str) -> str:
    """The override with *** for its value if that looks like a key, token or password."""
    key, value = _key_and_value(override)
    return f"{override.partition('=')[0]}=***" if value is not None and _is_secret(key, value) else override


def masked(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of plain containers, nested as it is, with *** for each text that looks like a key or password."""
    return {key: _masked(str(key), value) for key, value in config.items()}


def _masked(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _masked(f"{key}.{name}", inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(key, inner) for inner in value]
    return "***" if isinstance(value, str) and _is_secret(key, value) else value


def _key_and_value(override: str) -> tuple[str, str | None]:
    """An override's key and value, without Hydra's `+` and `++`; a deletion keeps its `~`, which names show."""
    key, equals, value = override.partition("=")
    return key.lstrip("+").strip(), value.strip() if equals else None


def _is_secret(key: str, value: str) -> bool:
    return bool(_SECRET_KEY.search(key) or _SECRET_VALUE.search(value))
