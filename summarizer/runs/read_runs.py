"""A run as its folder tells it, with its summaries and the rows it was scored on. All may come from elsewhere."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from summarizer.config.paths import shown
from summarizer.config.schema import DataConfig
from summarizer.console.safe_text import one_line
from summarizer.data.files import file_columns, find_files, read_files
from summarizer.data.hold_out import rows_from
from summarizer.data.rows import BadRow, check_row
from summarizer.errors import ConfigError, Issue
from summarizer.evaluation.predictions import (
    Prediction,
    RowFaithfulness,
    faithfulness_path,
    read_faithfulness,
    read_predictions,
)
from summarizer.evaluation.record import ROUGE_SCORE, VARIANTS, RougeTokenizer
from summarizer.files import read_own
from summarizer.json_files import parse_json
from summarizer.runs.folder import require_own
from summarizer.runs.record import SUMMARY, RunRecord, read_configured, read_summary
from summarizer.tracking.metrics import METRICS, read_metrics

SAMPLE_COLUMNS = ["id", "article", "reference", "base", "prediction"]
"""The columns of the table of samples that a run logs to wandb."""
MOST_REASONS = 3
"""How many of the mistakes in one file are named, in a line."""


class NeverBeganError(ConfigError):
    """A command was refused before its run began: there is nothing to read, and nothing is broken."""


@dataclass(eq=False)
class RunFiles:
    """What a run's folder holds; empty is what it does not say."""

    source: str
    """The folder, as a person names it."""
    folder: Path
    record: RunRecord
    """As its summary.json says; of a run without one, running."""
    says_overrides: bool = False
    """Whether the record's overrides are those that were typed."""
    metrics: Sequence[Mapping[str, Any]] = ()
    predictions: Sequence[Prediction] = ()
    """Of every row that the scores are over, or none."""
    base_predictions: Sequence[Prediction] = ()
    faithfulness: Mapping[str, RowFaithfulness] = field(default_factory=dict)
    """Of its summaries against their articles, by row id."""
    base_faithfulness: Mapping[str, RowFaithfulness] = field(default_factory=dict)
    articles: Mapping[str, str] = field(default_factory=dict)
    """By row id."""
    problems: dict[str, str] = field(default_factory=dict)
    """What of it could not be read, by path."""


def read_run_files(folder: Path) -> RunFiles:
    """A run from its folder, which may come from elsewhere.

    Raises ConfigError where nothing can be told of it; NeverBeganError where that is as it should be.
    """
    source = shown(folder)
    require_own(folder, source)
    has_summary, has_metrics = (folder / SUMMARY).is_file(), (folder / METRICS).is_file()
    if not has_summary and not has_metrics:
        kind = NeverBeganError if _is_unbegun(folder) else ConfigError
        raise kind([Issue(source, f"it never began to train: no {METRICS}, no {SUMMARY}")])
    record = read_summary(folder) if has_summary else RunRecord(folder=str(folder), status="running")
    found = RunFiles(source, folder, record, says_overrides=has_summary)
    found.metrics = read_metrics(folder / METRICS) if has_metrics else ()
    if (folder / ".hydra" / "config.yaml").is_file():
        configured = _told(
            found, folder / ".hydra", lambda: read_configured(folder, shown(folder / ".hydra"))
        )
        if configured is not None:
            known = {"config": configured.config, "overrides": configured.overrides}
            found.record = record.model_copy(update=known)
            found.says_overrides = True
    if record.steps is None and found.metrics:
        found.record = found.record.model_copy(update={"steps": found.metrics[-1].get("step")})
    _read_predictions(found, folder / "predictions")
    for file in sorted(folder.glob("wandb/*run-*/files/media/table/samples_*.table.json")):
        found.articles = _articles_of(found, file) | dict(found.articles)
    return found


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


def _read_predictions(found: RunFiles, folder: Path) -> None:
    split, rows = found.record.split, found.record.rows
    if split is None or rows is None:
        return
    if split not in ("train", "validation", "test"):
        found.problems[f"{found.source}/{SUMMARY}"] = f"split: {one_line(split)[:40]} is no split"
        return
    file = folder / f"{split}.jsonl"
    if not file.is_file():
        return
    predictions = _told(found, file, lambda: read_predictions(file))
    if predictions is None:
        return
    if len(predictions) != rows:
        said = f"holds {len(predictions):,} rows, but the run was scored on {rows:,}"
        found.problems[shown(file)] = f"{said}; it is left out"
        return
    found.predictions = predictions
    found.faithfulness = _faithfulness_of(found, file, predictions)
    base = folder / f"{split}.base.jsonl"
    if base.is_file():
        found.base_predictions = _told(found, base, lambda: read_predictions(base)) or ()
        found.base_faithfulness = _faithfulness_of(found, base, found.base_predictions)


def _faithfulness_of(
    found: RunFiles, file: Path, predictions: Sequence[Prediction]
) -> dict[str, RowFaithfulness]:
    """By row id, of the predictions in a file; nothing of an earlier version's, or where ids occur twice."""
    path = faithfulness_path(file)
    if not path.is_file():
        return {}
    rows = _told(found, path, lambda: read_faithfulness(path)) or ()
    by_id = {row.id: row for row in rows}
    if len(by_id) == len(rows) and by_id.keys() == {row.id for row in predictions}:
        return by_id
    if rows and len(by_id) == len(rows):
        found.problems[shown(path)] = f"its rows are not those of {file.name}; it is left out"
    return {}


def _articles_of(found: RunFiles, file: Path) -> dict[str, str]:
    """Articles by row id, of a table of samples that the run logged to wandb."""
    try:
        table = parse_json(read_own(file))
        if table["columns"] != SAMPLE_COLUMNS:
            raise ValueError(f"its columns are not {', '.join(SAMPLE_COLUMNS)}")
        articles = {row_id: article for row_id, article, *_ in table["data"]}
        if not all(isinstance(text, str) for pair in articles.items() for text in pair):
            raise ValueError("a cell is not text")
    except (OSError, ValueError, TypeError, KeyError) as error:
        found.problems[shown(file)] = f"not a table of samples: {one_line(str(error))}"
        return {}
    return articles


def _told(found: RunFiles, path: Path, reader: Any) -> Any:
    """What `reader` reads, or None, with the reason kept."""
    try:
        return reader()
    except ConfigError as error:
        found.problems[shown(path)] = reason(error, str(path))
        return None


def finite(value: object) -> float | None:
    """A number of a record; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


@dataclass(frozen=True)
class RowSet:
    """The rows that a run was scored on. Scores of different row sets are never in one column."""

    split: str
    rows: int
    digest: str
    """SHA-256 over the rows' ids and references, or of the data where the rows themselves are not at hand."""
    tokenizer: RougeTokenizer = ROUGE_SCORE
    """What ROUGE's tokens are: scores by other ones do not compare, be the rows the same."""


def tokenizer_of(record: RunRecord) -> RougeTokenizer:
    """What the run's ROUGE was counted by: rouge-score's own, where an earlier version does not say."""
    return record.rouge_tokenizer or ROUGE_SCORE


LeadScores = tuple[str, int, tuple[float, ...]]


def row_sets(runs: Sequence[RunFiles]) -> list[RowSet | None]:
    """The row set of each run; None for one without scores.

    A run whose predictions are not at hand is taken to be scored on the rows of
    another where split, count and all of Lead-3's scores are the same: those depend on every article and every
    reference, and on nothing else that a run could change.
    """
    exact = [_exact(run) for run in runs]
    by_lead: dict[LeadScores, set[RowSet]] = defaultdict(set)
    for run, row_set in zip(runs, exact, strict=True):
        if row_set is not None and (lead := _lead(run)) is not None:
            by_lead[lead].add(row_set)
    return [row_set or _likely(run, by_lead) for run, row_set in zip(runs, exact, strict=True)]


def digest(predictions: Sequence[Prediction]) -> str:
    """SHA-256 of the rows' ids and references. Their order counts only where ids occur twice."""
    pairs = [[row.id, row.reference] for row in predictions]
    if max(Counter(row.id for row in predictions).values(), default=0) <= 1:
        pairs.sort()
    return _sha256(pairs)


def _exact(run: RunFiles) -> RowSet | None:
    split, rows = run.record.split, run.record.rows
    if split is None or rows is None or not run.predictions:
        return None
    return RowSet(split, rows, digest(run.predictions), tokenizer_of(run.record))


def _likely(run: RunFiles, by_lead: dict[LeadScores, set[RowSet]]) -> RowSet | None:
    """By Lead-3's scores, or where they were not measured by the data that the config names."""
    record = run.record
    if record.split is None or record.rows is None or (record.rouge is None and record.val_loss is None):
        return None
    lead = _lead(run)
    if lead is not None and len(known := by_lead.get(lead, set())) == 1:
        return next(iter(known))
    data = record.config.get("data") if lead is None else None
    found = _sha256(["not of the rows themselves", lead, data])
    return RowSet(record.split, record.rows, found, tokenizer_of(record))


def _lead(run: RunFiles) -> LeadScores | None:
    record = run.record
    if record.baseline is None or record.split is None or record.rows is None:
        return None
    values = tuple(round(record.baseline[variant].value, 9) for variant in VARIANTS)
    return record.split, record.rows, values


def _sha256(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


MOST_ROWS_READ = 5_000
"""Of a file: the rows that are shown are mostly its first, and reading on would cost more than they tell."""
LONGEST_BEGINNING = 1_500
"""Characters."""


def from_files(
    config: Mapping[str, Any],
    split: str,
    references: Mapping[str, str],
    *,
    most_rows: int | None = MOST_ROWS_READ,
) -> dict[str, str]:
    """Articles by row id, read from the local files that a run's config names, as far as those are still there.

    references: by row id, of the articles wanted. An article counts only where id and reference are the run's
    own, so that a config from elsewhere brings no other text of this machine into a page. Nothing is fetched.
    """
    try:
        spec = DataConfig.model_validate(config.get("data"))
    except ValidationError:
        return {}
    place, named = rows_from(spec, split)
    if spec.source != "files" or named is None:
        return {}
    found: dict[str, str] = {}
    try:
        paths = find_files(f"data.{place}", named)
        columns = file_columns(paths, spec.columns)
        rows = islice(read_files(paths, columns), most_rows)
        for index, raw in enumerate(rows):
            if isinstance(raw, BadRow):
                continue
            row = check_row(raw[1], columns, raw[0], index, frozenset())
            if not isinstance(row, BadRow) and references.get(row.id) == row.summary:
                found[row.id] = row.article
                if len(found) == len(references):
                    break
    except (ConfigError, OSError):
        return found  # files that are gone or changed since: an article is a help in reading, no result
    return found


def beginning(article: str) -> str:
    text = article.strip()
    return text if len(text) <= LONGEST_BEGINNING else text[:LONGEST_BEGINNING].rstrip() + " …"


def first_known(known: Iterable[Mapping[str, str]], row_id: str) -> str | None:
    article = next((articles[row_id] for articles in known if row_id in articles), None)
    return None if article is None else beginning(article)
