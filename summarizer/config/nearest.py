"""The name that a person probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The most similar valid name (Ratcliff-Obershelp, difflib), or None where none is near."""
    found = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return found[0] if found else None


def suggestion(name: str, valid: Iterable[str]) -> str:
    """How a message goes on after an unknown name: the nearest valid one, or all of them."""
    names = sorted(valid)
    if near := nearest(name, names):
        return f"; did you mean {near!r}?"
    return f"; valid names: {', '.join(names)}"
