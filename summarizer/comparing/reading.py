"""One run as its own record tells it, whichever kind of record that is. All of it may come from elsewhere."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from summarizer.comparing.finding import Place, wandb_file
from summarizer.config.paths import shown
from summarizer.errors import ConfigError, Issue
from summarizer.evaluation.predictions import Prediction, read_predictions
from summarizer.json_files import broken
from summarizer.runs.record import SUMMARY, RunRecord, read_configured, read_summary
from summarizer.sweeps.swept import one_line
from summarizer.tracking.metrics import METRICS, read_metrics
from summarizer.tracking.wandb_log import WandbLog, read_log

SAMPLES = "samples"
SAMPLE_COLUMNS = ["id", "article", "reference", "base", "prediction"]
"""Of the table that a run logs to wandb."""
MOST_REASONS = 3
"""Of what is wrong with one file, in a line."""


class NeverBeganError(ConfigError):
    """A command was refused before its run began: there is nothing to read, and nothing is broken."""


@dataclass(eq=False)
class Read:
    """A run as it was read; None and empty are what its record does not say."""

    source: str
    folder: Path | None
    config: Mapping[str, Any] = field(default_factory=dict)
    """As composed, nested."""
    overrides: tuple[str, ...] | None = None
    summary: RunRecord | None = None
    exit_code: int | None = None
    """By wandb, of a run without a summary."""
    metrics: Sequence[Mapping[str, Any]] = ()
    predictions: Sequence[Prediction] = ()
    base_predictions: Sequence[Prediction] = ()
    all_rows: bool = False
    """Whether the predictions are of every row that the scores are over."""
    articles: Mapping[str, str] = field(default_factory=dict)
    """By row id."""
    problems: dict[str, str] = field(default_factory=dict)
    """What of it could not be read, by path."""


def read_run(place: Place) -> Read | None:
    """A run from its folder or its wandb folders; None for a wandb run of a sweep's table.

    Raises ConfigError where nothing can be told of it; NeverBeganError where that is as it should be.
    """
    return _from_wandb(place) if place.folder is None else _from_folder(place.folder)


def _is_unbegun(folder: Path) -> bool:
    """Whether all that is left of a run is its config and an empty log."""
    return all(
        path.name == ".hydra" or (path.suffix == ".log" and path.is_file() and not path.stat().st_size)
        for path in folder.iterdir()
    )


def reason(error: ConfigError, path: str) -> str:
    """Why something could not be read, in one line, without the path that it stands beside."""
    said = [
        re.sub(r"^:(\d+)", r"line \1", str(issue).removeprefix(path)).lstrip("/: ") for issue in error.issues
    ]
    more = f"; and {len(said) - MOST_REASONS} more" if len(said) > MOST_REASONS else ""
    return one_line("; ".join(said[:MOST_REASONS])) + more


def _from_folder(folder: Path) -> Read:
    read = Read(shown(folder), folder)
    has_summary, has_metrics = (folder / SUMMARY).is_file(), (folder / METRICS).is_file()
    if not has_summary and not has_metrics:
        kind = NeverBeganError if _is_unbegun(folder) else ConfigError
        raise kind([Issue(read.source, f"it never began to train: no {METRICS}, no {SUMMARY}")])
    read.summary = read_summary(folder) if has_summary else None
    read.metrics = read_metrics(folder / METRICS) if has_metrics else ()
    if (folder / ".hydra" / "config.yaml").is_file():
        job = _told(read, folder / ".hydra", lambda: read_configured(folder))
        if job is not None:
            read.config, read.overrides = job.config, job.overrides
    if read.overrides is None and read.summary is not None:
        read.overrides = tuple(read.summary.overrides)
    _read_predictions(read, folder / "predictions")
    for file in sorted(folder.glob("wandb/*run-*/files/media/table/samples_*.table.json")):
        read.articles = {row.id: article for row, _, article in _samples(read, file)} | dict(read.articles)
    return read


def _read_predictions(read: Read, folder: Path) -> None:
    summary = read.summary
    if summary is None or summary.split is None or summary.rows is None:
        return
    split = summary.split
    if split not in ("train", "validation", "test"):
        read.problems[f"{read.source}/{SUMMARY}"] = f"split: {one_line(split)[:40]} is no split"
        return
    file = folder / f"{split}.jsonl"
    if not file.is_file():
        return
    predictions = _told(read, file, lambda: read_predictions(file))
    if predictions is None:
        return
    if len(predictions) != summary.rows:
        found = f"holds {len(predictions):,} rows, but the run was scored on {summary.rows:,}"
        read.problems[shown(file)] = f"{found}; it is left out"
        return
    read.predictions, read.all_rows = predictions, True
    base = folder / f"{split}.base.jsonl"
    if base.is_file():
        read.base_predictions = _told(read, base, lambda: read_predictions(base)) or ()


def _from_wandb(place: Place) -> Read | None:
    read = Read(place.source, None)
    logs = [read_log(file) for folder in place.wandb if (file := wandb_file(folder)) is not None]
    if all(log.job_type == "sweep" for log in logs):
        return None
    last = logs[-1]
    read.config = {key: value for log in logs for key, value in log.config.items() if key != "_wandb"}
    read.summary, read.exit_code = _summary(place.source, last), last.exit_code
    if read.summary is not None:
        read.overrides = tuple(read.summary.overrides)
    by_step = {
        row["step"]: {name: value for name, value in row.items() if not name.startswith("_")}
        for log in logs
        for row in log.history
        if isinstance(row.get("step"), int)
    }
    read.metrics = [by_step[step] for step in sorted(by_step)]
    named = [row.get(f"{SAMPLES}/path") for log in logs for row in log.history]
    path = next((path for path in reversed(named) if isinstance(path, str)), None)
    if path is not None and read.summary is not None and read.summary.rouge is not None:
        file = _inside(place.wandb[-1] / "files", path)
        rows = [] if file is None else _samples(read, file)
        read.predictions = [row for row, _, _ in rows]
        read.base_predictions = [
            Prediction(row.id, base, row.reference) for row, base, _ in rows if base is not None
        ]
        read.articles = {row.id: article for row, _, article in rows}
    return read


def _summary(source: str, log: WandbLog) -> RunRecord | None:
    """What the run gave wandb as it ended, which is its whole summary.json; None where it never did."""
    if log.summary.get("status") is None or log.exit_code is None:
        return None
    known = {name: log.summary[name] for name in RunRecord.model_fields if name in log.summary}
    try:
        return RunRecord.model_validate(known)
    except ValidationError as error:
        raise broken(Path(source), error) from error


def _samples(read: Read, file: Path) -> list[tuple[Prediction, str | None, str]]:
    """Rows of a table that a run logged: the prediction, what the base wrote, the article."""
    try:
        table = json.loads(file.read_bytes())
        if table["columns"] != SAMPLE_COLUMNS:
            raise ValueError(f"its columns are not {', '.join(SAMPLE_COLUMNS)}")
        rows = [
            (Prediction(id, prediction, reference), base, article)
            for id, article, reference, base, prediction in table["data"]
        ]
        if not all(
            isinstance(text, str) for row, base, article in rows for text in (*vars(row).values(), article)
        ) or not all(base is None or isinstance(base, str) for _, base, _ in rows):
            raise ValueError("a cell is not text")
    except (OSError, ValueError, TypeError, KeyError) as error:
        read.problems[shown(file)] = f"not a table of samples: {one_line(str(error))}"
        return []
    return rows


def _inside(folder: Path, path: str) -> Path | None:
    """A file that a record names below a folder; None where it is not there, or outside."""
    file = folder / path
    return file if file.is_file() and file.resolve().is_relative_to(folder.resolve()) else None


def _told(read: Read, path: Path, reader: Any) -> Any:
    """What `reader` reads, or None, with the reason kept."""
    try:
        return reader()
    except ConfigError as error:
        read.problems[shown(path)] = reason(error, str(path))
        return None


def finite(value: object) -> float | None:
    """A number of a record; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
