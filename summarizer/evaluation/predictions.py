"""`predictions/<split>.jsonl`: what was written for each row, beside what should have been."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from summarizer.atomic import write_text
from summarizer.errors import ConfigError, Issue
from summarizer.files import own_folder, read_own
from summarizer.json_files import parse_json

MOST_BYTES = 2**30
"""Of a predictions file: a hundred times cnn_dailymail's test split."""
FIELDS = ("id", "prediction", "reference")


@dataclass(frozen=True)
class Prediction:
    id: str
    prediction: str
    reference: str


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Replace `path` in one step, one JSON object per line; its folder is made in the one above.

    Raises WriteError and leaves the old file alone.
    """
    text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in predictions)
    with own_folder(path.parent) as folder:
        write_text(folder / path.name, text)


def read_predictions(path: Path) -> list[Prediction]:
    """The rows of a predictions file. Raises ConfigError naming every line that is not one."""
    try:
        text = read_own(path, MOST_BYTES).decode("utf-8")
    except OSError as error:
        raise ConfigError.single(str(path), f"no predictions to read here ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError.single(str(path), f"not UTF-8 text (byte {error.start})") from error
    rows: list[Prediction] = []
    issues: list[Issue] = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        row = _parse(line)
        if row is None:
            wanted = ", ".join(FIELDS)
            issues.append(Issue(f"{path}:{number}", f"not a JSON object with exactly the texts {wanted}"))
        else:
            rows.append(row)
    if issues:
        raise ConfigError(issues)
    return rows


def _parse(line: str) -> Prediction | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or set(row) != set(FIELDS):
        return None
    return Prediction(**row) if all(isinstance(value, str) for value in row.values()) else None
