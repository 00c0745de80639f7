"""A run's name, from what its command changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from summarizer.console.secrets import MASK, is_secret
from summarizer.console.trial_lines import short_key

MAX_CHARACTERS = 128
"""The longest name that wandb takes."""


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
        + ("" if value is None else f"={MASK if is_secret(key, value) else value}")
        for key, value in parts
    )
    name = " ".join(words) or "default"
    if len(name) <= MAX_CHARACTERS:
        return name
    ending = "…" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return name[: MAX_CHARACTERS - len(ending)] + ending


def _key_and_value(override: str) -> tuple[str, str | None]:
    """An override's key and value, without Hydra's `+` and `++`; a deletion keeps its `~`, which names show."""
    key, equals, value = override.partition("=")
    return key.lstrip("+").strip(), value.strip() if equals else None
