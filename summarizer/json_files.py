"""What this project's JSON files share: typed, frozen objects, numbers that JSON can hold, one way to read them.

A file may come from elsewhere: how large it is and how deep it nests is bounded, and no link is followed to it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from summarizer.atomic import write_text
from summarizer.errors import ConfigError, Issue
from summarizer.files import read_own

MOST_LEVELS = 64
"""Objects and lists inside each other; the files here have four."""


def _null_unless_finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


FiniteOrNull = Annotated[float | None, BeforeValidator(_null_unless_finite)]
"""A number, or null where it is not known or not finite: JSON has no NaN."""


class Part(BaseModel):
    """An object of a JSON file: what its class does not name is refused, and nothing in it changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnyPart = TypeVar("AnyPart", bound=Part)


class GitState(Part):
    """The commit of the code that wrote a file, and whether there were changes beside it."""

    commit: str
    dirty: bool


def write_part(path: Path, part: Part) -> None:
    """Replace the file in one step. Raises OSError, leaving the old file as it was."""
    write_text(path, part.model_dump_json(indent=2) + "\n")


def read_part(path: Path, kind: type[AnyPart], what: str, name: str | None = None) -> AnyPart:
    """The object in a file, which may come from elsewhere.

    what: the file's content, as a message says it is missing: "no scores to read here".  name: the file as messages
    have it, where that is not `path`.
    Raises ConfigError where there is none, or naming each field that is wrong.
    """
    try:
        return kind.model_validate_json(read_own(path))
    except OSError as error:
        raise ConfigError.single(name or str(path), f"no {what} to read here ({error.strerror})") from error
    except ValidationError as error:
        raise broken(name or str(path), error) from error


def parse_json(content: str | bytes) -> Any:
    """What JSON text (UTF-8) says. Raises ValueError where it is none, or nests deeper than MOST_LEVELS.

    A whole number that no float holds is infinite, as 1e999 is: whoever computes with numbers looks out for that.
    """
    text = content if isinstance(content, str) else content.decode("utf-8")
    too_deep = f"it nests deeper than {MOST_LEVELS} levels"
    try:
        value = json.loads(text, parse_int=_whole)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    if text.count("[") + text.count("{") > MOST_LEVELS:
        inside = [value]
        for _ in range(MOST_LEVELS):
            inside = [one for node in inside for one in _values(node)]
        if any(isinstance(node, dict | list) for node in inside):
            raise ValueError(too_deep)
    return value


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < sys.float_info.max_10_exp else float(digits)


def _values(node: Any) -> Iterable[Any]:
    return node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def broken(name: str, error: ValidationError) -> ConfigError:
    """Each field of a file that is not as its class has it."""
    return ConfigError(
        Issue(f"{name}: {'.'.join(map(str, mistake['loc']))}".rstrip(": "), mistake["msg"])
        for mistake in error.errors()
    )
