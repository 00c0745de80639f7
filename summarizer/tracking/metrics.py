"""What a run records while it goes on: `metrics.jsonl` always, a tracker such as wandb beside it.

`metrics.jsonl` has one JSON object per logged step. It is the run's own record, whatever becomes of the tracker.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from summarizer.atomic import write_text
from summarizer.errors import ConfigError
from summarizer.files import append_line, read_own
from summarizer.json_files import parse_json

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
MOST_BYTES = 2**28
"""Of a metrics file: half a million logged steps."""

EndStatus = Literal["completed", "stopped", "failed"]
"""How a run ended."""


class MetricsFile:
    """Appends to a metrics file. The system has each line at once, so a killed process loses none."""

    def __init__(self, path: Path) -> None:
        """Open `path`, which may not exist yet in its folder, and take away a last line that a kill cut short.

        Raises ConfigError if another line is broken.
        """
        self._path = path
        self._begun = path.exists()
        if self._begun and (left := _content(path)) and not left.endswith(b"\n"):
            write_text(path, _lines_text(_read_lines(path)))

    def log(self, record: Mapping[str, float | int]) -> None:
        """Append one record, which must hold its `step`.

        NaN and infinities become null: JSON has no word for them.
        Raises ValueError without a step, and WriteError with the file as it was before, such as on a full disk; a
        file that is gone since the last record is not made anew.
        """
        if not isinstance(record.get("step"), int):
            raise ValueError(f"a metrics record needs its step: {dict(record)}")
        line = json.dumps({key: _number(value) for key, value in record.items()})
        append_line(self._path, line, new=not self._begun)
        self._begun = True

    def records(self) -> list[dict[str, Any]]:
        """The records that are in the file; none where there is no file yet."""
        return read_metrics(self._path) if self._path.exists() else []

    def keep(self, known: Callable[[Mapping[str, Any]], bool]) -> None:
        """Drop every record but the known ones, in one step: a resumed run writes those again."""
        if self._path.exists():
            kept = [line for line in _read_lines(self._path) if known(_parse(line))]
            write_text(self._path, _lines_text(kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, in order; values are numbers, or null where they were not finite.

    A last line that a kill cut short is left out.
    Raises ConfigError if the file is missing, or broken elsewhere.
    """
    return [_parse(line) for line in _read_lines(path)]


def _content(path: Path) -> bytes:
    try:
        return read_own(path, MOST_BYTES)
    except OSError as error:
        raise ConfigError.single(str(path), f"no metrics to read here ({error.strerror})") from error


def _read_lines(path: Path) -> list[str]:
    """The complete lines, each checked to be a record."""
    lines = _content(path).split(b"\n")
    last = lines.pop()  # empty if the file ends with a newline, as it should
    complete: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not _is_record(line):
            raise ConfigError.single(
                f"{path}:{number}", "not a JSON object of numbers with a whole-number step"
            )
        complete.append(line.decode())
    if _is_record(last):  # only the newline is missing: the beginning of an object is never an object
        complete.append(last.decode())
    return complete


def _is_record(line: bytes) -> bool:
    try:
        record = parse_json(line)
    except ValueError:
        return False
    return (
        isinstance(record, dict)
        and type(record.get("step")) is int
        and 0 <= record["step"] < 2**53
        and all(value is None or isinstance(value, int | float) for value in record.values())
    )


def _parse(line: str) -> dict[str, Any]:
    record: dict[str, Any] = parse_json(line)
    return record


def _lines_text(lines: list[str]) -> str:
    return "".join(line + "\n" for line in lines)


def _number(value: float | int) -> float | int | None:
    if isinstance(value, int):
        return value
    number = float(value)  # numpy's and torch's scalars too
    return number if math.isfinite(number) else None


# ---- the tracker beside it, and both in step ---------------------------------------------------------------------


@dataclass(frozen=True)
class SampleSummary:
    """One summary of the held-out rows, beside what it should be, for a person to judge."""

    id: str
    article: str
    reference: str
    base: str | None
    """What the untrained base model wrote; None where it did not write any."""
    prediction: str


class Tracker(Protocol):
    """Where a run's numbers go beside `metrics.jsonl`."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of an optimizer step. Steps never go back; several calls for one step make one row."""

    def replay(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log what a killed process logged and may not have handed on; what is there already stays as it is."""

    def log_samples(self, step: int, rows: Sequence[SampleSummary]) -> None:
        """Log summaries of a few held-out rows, as the adapter of this step writes them."""

    def log_adapter(self, folder: Path) -> None:
        """Keep the saved adapter, which must not change any more."""

    def finish(self, status: EndStatus, summary: Mapping[str, Any]) -> None:
        """Close the record with the run's status and its final numbers."""


class UntilItFails:
    """The calls of one tracker up to the first that fails, which is said once: no later one is made.

    Its service may die, its disk fill up, its server change: none of that is worth the run.
    """

    def __init__(self, name: str, kept: str = "") -> None:
        """name: of what is called.  kept: where what it got until then is, for a person."""
        self._name, self._kept = name, f"what it got is in {kept}, " if kept else ""
        self._failed = False

    def __call__(self, call: Callable[[], Any]) -> Exception | None:
        """What the call failed with; None where it did not, or was not made any more."""
        if self._failed:
            return None
        try:
            call()
        except Exception as error:
            self._failed = True
            log.warning(
                "%s failed and gets nothing more of this run (%s: %s); %severything is in metrics.jsonl and "
                "summary.json",
                *(self._name, type(error).__name__, error, self._kept),
            )
            return error
        return None


class Trackers:
    """Several trackers as one; none of them, where tracking is off, keeps nothing."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.log(metrics, step)

    def replay(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for tracker in self._trackers:
            tracker.replay(rows)

    def log_samples(self, step: int, rows: Sequence[SampleSummary]) -> None:
        for tracker in self._trackers:
            tracker.log_samples(step, rows)

    def log_adapter(self, folder: Path) -> None:
        for tracker in self._trackers:
            tracker.log_adapter(folder)

    def finish(self, status: EndStatus, summary: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.finish(status, summary)


class Recorder:
    """A run's `metrics.jsonl` and its tracker, kept in step."""

    def __init__(self, metrics: MetricsFile | None, tracker: Tracker) -> None:
        """metrics: None writes no file."""
        self._metrics, self._tracker = metrics, tracker

    def log(self, row: Mapping[str, float]) -> None:
        """Record one row, which holds its `step`."""
        if self._metrics is not None:
            self._metrics.log(row)
        self._tracker.log(row, int(row["step"]))

    def log_samples(self, step: int, samples: Sequence[SampleSummary]) -> None:
        self._tracker.log_samples(step, samples)

    def log_adapter(self, folder: Path) -> None:
        self._tracker.log_adapter(folder)

    def keep(self, known: Callable[[Mapping[str, Any]], bool]) -> None:
        """Forget what an interrupted process recorded after the step that it is resumed from."""
        if self._metrics is not None:
            self._metrics.keep(known)
            self._tracker.replay(self._metrics.records())

    def finish(self, status: EndStatus, summary: Mapping[str, Any]) -> None:
        self._tracker.finish(status, summary)


def no_recorder() -> Recorder:
    """The recorder of the processes that only help the main one: nothing is recorded there."""
    return Recorder(None, Trackers())
