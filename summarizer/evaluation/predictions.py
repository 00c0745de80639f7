"""`predictions/<split>.jsonl`: what was written for each row, beside what should have been.

`faithfulness/<split>.jsonl` has what was found out of each of these summaries against its article.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from summarizer.atomic import write_text
from summarizer.errors import ConfigError, Issue
from summarizer.evaluation.record import FAITHFULNESS, Kind
from summarizer.files import own_folder, read_own
from summarizer.json_files import Part, parse_json

MOST_BYTES = 2**30
"""Of a predictions file: a hundred times cnn_dailymail's test split."""
FIELDS = ("id", "prediction", "reference")


@dataclass(frozen=True)
class Prediction:
    id: str
    prediction: str
    reference: str


Place = Annotated[int, Field(ge=0, le=MOST_BYTES)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class RowFaithfulness(Part):
    """What one row's summary says that its article does not have, and its part of each score of FAITHFULNESS."""

    id: str
    scores: dict[str, tuple[Number, Number]]
    """By score, the row's part of numerator and denominator: 100 and 2 where one of two names is known."""
    missing: list[tuple[Kind, Place, Place]]
    """What the article does not have: a name, number or quote at the characters [start, end) of the summary."""

    @field_validator("scores")
    @classmethod
    def _are_known(cls, scores: Mapping[str, object]) -> Mapping[str, object]:
        if unknown := sorted(scores.keys() - FAITHFULNESS.keys()):
            raise ValueError(f"no scores: {', '.join(unknown)}")
        return scores


def faithfulness_path(predictions: Path) -> Path:
    """Where the faithfulness of these predictions lies: `faithfulness/test.jsonl` of `predictions/test.jsonl`."""
    return predictions.parent.with_name("faithfulness") / predictions.name


def write_faithfulness(path: Path, rows: Sequence[RowFaithfulness]) -> None:
    """Replace `path` in one step, one JSON object per line, as `write_predictions` does."""
    _write_lines(path, [row.model_dump_json() for row in rows])


def read_faithfulness(path: Path) -> list[RowFaithfulness]:
    """The rows of a file of faithfulness. Raises ConfigError at the first line that is none."""
    try:
        lines = read_own(path, MOST_BYTES).splitlines()
    except OSError as error:
        raise ConfigError.single(str(path), f"no faithfulness to read here ({error.strerror})") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(RowFaithfulness.model_validate(parse_json(line)))
        except (ValueError, ValidationError) as error:
            raise ConfigError.single(f"{path}:{number}", "not the faithfulness of a row") from error
    return rows


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Replace `path` in one step, one JSON object per line; its folder is made in the one above.

    Raises WriteError and leaves the old file alone.
    """
    _write_lines(path, [json.dumps(asdict(row), ensure_ascii=False) for row in predictions])


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


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    with own_folder(path.parent) as folder:
        write_text(folder / path.name, "".join(f"{line}\n" for line in lines))


def _parse(line: str) -> Prediction | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or set(row) != set(FIELDS):
        return None
    return Prediction(**row) if all(isinstance(value, str) for value in row.values()) else None
