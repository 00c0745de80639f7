"""What this project's JSON files share: typed, frozen objects, numbers that JSON can hold, one way to read them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from summarizer.atomic import write_text
from summarizer.errors import ConfigError, Issue


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


def read_part(path: Path, kind: type[AnyPart], what: str) -> AnyPart:
    """The object in a file, which may come from elsewhere.

    what: the file's content, as a message says it is missing: "no scores to read here".
    Raises ConfigError where there is none, or naming each field that is wrong.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError.single(str(path), f"no {what} to read here ({error.strerror})") from error
    except ValidationError as error:
        raise broken(path, error) from error


def broken(path: Path, error: ValidationError) -> ConfigError:
    """Each field of a file that is not as its class has it."""
    return ConfigError(
        Issue(f"{path}: {'.'.join(map(str, mistake['loc']))}".rstrip(": "), mistake["msg"])
        for mistake in error.errors()
    )
