"""Which rows are scored: the run's own split, files that a person names, or the rows of MLPerf's task."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from summarizer.config.plain import read_option
from summarizer.config.schema import Columns, DataConfig, RowLimits
from summarizer.console.progress import bar
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt
from summarizer.data.rows import BadRow, Row, check_row, first_bad_rows
from summarizer.data.sources import SplitName, open_source
from summarizer.data.splits import build_split
from summarizer.errors import ConfigError, Issue
from summarizer.evaluation import mlperf

ALL = "all"
FILES = "--data"
FLAGS = {
    "data.columns.article": "--column",
    "data.columns.summary": "--summary-column",
    "data.columns.id": "--id-column",
    "data.max_bad_rows": "--max-bad-rows",
    "data.streaming": "--rows",
}
"""What this command's person types for a key of the config group `data`."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowChoice:
    """What the command line says of the rows; None leaves it to the run."""

    files: tuple[str, ...] = ()
    article: str | None = None
    summary: str | None = None
    id: str | None = None
    rows: int | str | None = None
    """How many at most, or ALL."""
    max_bad_rows: int | None = None


@dataclass(frozen=True)
class ScoredRows:
    """Rows with the texts that scores are over."""

    data: str
    """The data set as a person names it."""
    split: str
    ids: Sequence[str] = field(repr=False)
    articles: Sequence[str] = field(repr=False)
    references: Sequence[str] = field(repr=False)
    encoded: Callable[[], Sequence[EncodedRow]] | None = field(default=None, repr=False)
    """As in training, for the loss; None where the prompt is not the training's."""
    notes: tuple[str, ...] = ()
    """What a reader of the scores has to know of these rows."""

    @property
    def ids_sha256(self) -> str:
        """Of the rows' ids in their order."""
        listed = json.dumps(list(self.ids), ensure_ascii=False)
        return hashlib.sha256(listed.encode()).hexdigest()

    @property
    def texts_sha256(self) -> str:
        """Changes with anything that changes a score."""
        texts = json.dumps([list(self.ids), list(self.articles), list(self.references)], ensure_ascii=False)
        return hashlib.sha256(texts.encode()).hexdigest()


def own_rows(spec: DataConfig, split: SplitName, label: str, choice: RowChoice, prompt: Prompt) -> ScoredRows:
    """Rows of a run's own data, or of the files chosen: those that the run itself would be scored on.

    label: what a message and the scores call the split.
    Raises ConfigError under the names of the flags; where the run's own data is gone, it names --data.
    """
    chosen = data_of(spec, split, choice)
    try:
        found = build_split(chosen, split, prompt)
    except ConfigError as error:
        raise ConfigError(_as_typed(error.issues, choice, "other rows to score on")) from error
    if found.report.bad:
        log.warning(
            "%d unusable rows are left out: %s", len(found.report.bad), first_bad_rows(found.report.bad)
        )
    texts = found.rows.select_columns(["id", "article", "summary"])[:]
    notes = _limit_notes(chosen, split, choice, len(found))
    return ScoredRows(
        data=described(chosen, split),
        split=label,
        ids=texts["id"],
        articles=texts["article"],
        references=texts["summary"],
        encoded=lambda: found.encoded(range(len(found))),
        notes=notes,
    )


def mlperf_rows(choice: RowChoice) -> ScoredRows:
    """The rows of MLPerf's task, from the hub, or from files that are said to hold them."""
    task = DataConfig.model_validate(read_option("data", "cnn_dailymail"))
    spec = data_of(task, "validation", choice)
    limit = choice.rows if isinstance(choice.rows, int) else None
    rows: list[Row] = []
    bad: list[BadRow] = []
    try:
        source = open_source(spec, "validation")
        with bar("reading", limit or source.total) as shown:
            for index, raw in enumerate(source.read()):
                row = (
                    raw
                    if isinstance(raw, BadRow)
                    else check_row(raw[1], spec.columns, raw[0], index, frozenset())
                )
                shown.advance()
                if isinstance(row, BadRow):
                    bad.append(row)
                else:
                    rows.append(row)
                if len(rows) == limit:
                    break
    except ConfigError as error:
        raise ConfigError(_as_typed(error.issues, choice, "files that hold the same rows")) from error
    if len(bad) > spec.max_bad_rows or not rows:
        raise ConfigError.single(
            "--max-bad-rows" if rows else FILES,
            f"{len(bad)} unusable rows and {len(rows)} usable ones, {spec.max_bad_rows} unusable ones accepted"
            + (f": {first_bad_rows(tuple(bad))}" if bad else ""),
        )
    name = f"{mlperf.DATA} {mlperf.DATA_VERSION}"
    on_trust = (
        (
            f"the rows come from {', '.join(choice.files)}; that they are {name}'s {mlperf.SPLIT} split is taken "
            "on trust",
        )
        if choice.files
        else ()
    )
    return ScoredRows(
        data=described(spec, "validation") if choice.files else name,
        split=mlperf.SPLIT,
        ids=[row.id for row in rows],
        articles=[row.article for row in rows],
        references=[row.summary for row in rows],
        notes=on_trust + _limit_notes(spec, "validation", choice, len(rows)),
    )


def data_of(spec: DataConfig, split: SplitName, choice: RowChoice) -> DataConfig:
    """A run's data config with what the command line says of the rows in its place."""
    changed: dict[str, object] = {}
    limits = spec.rows
    if choice.files:
        changed |= {"source": "files", "path": None, "config": None, "revision": None, "streaming": False}
        changed |= {"rows_seed": None, split: list(choice.files)}
        limits = RowLimits(train=None, validation=None, test=None)
    typed = {"article": choice.article, "summary": choice.summary, "id": choice.id}
    columns = Columns(
        **spec.columns.model_dump() | {key: name for key, name in typed.items() if name is not None}
    )
    if choice.rows is not None:
        limits = limits.model_copy(update={split: None if choice.rows == ALL else choice.rows})
    if choice.max_bad_rows is not None:
        changed["max_bad_rows"] = choice.max_bad_rows
    found = spec.model_copy(update=changed | {"rows": limits, "columns": columns})
    return _numbered_without_ids(found, split) if choice.files and choice.id is None else found


def described(spec: DataConfig, split: SplitName) -> str:
    """Where the rows come from, as a person names it."""
    if spec.source == "hub":
        return " ".join(part for part in (spec.path, spec.config, spec.revision) if part)
    named: str | list[str] = getattr(spec, split)
    return named if isinstance(named, str) else ", ".join(named)


def _numbered_without_ids(spec: DataConfig, split: SplitName) -> DataConfig:
    """The same, its rows numbered where the files lack the column that the run's own ids are in."""
    try:
        next(iter(open_source(spec, split).read()), None)
    except ConfigError as error:
        if [issue.key for issue in error.issues] == ["data.columns.id"]:
            return spec.model_copy(update={"columns": spec.columns.model_copy(update={"id": None})})
    return spec  # anything else that is wrong is said where the rows are read in earnest


def _limit_notes(spec: DataConfig, split: SplitName, choice: RowChoice, count: int) -> tuple[str, ...]:
    limit: int | None = getattr(spec.rows, split)
    if limit is None:
        return ()
    if isinstance(choice.rows, int):
        return (f"{limit:,} rows were asked for, but there are only {count:,}",) if count < limit else ()
    return (f"the run's own data.rows.{split}={limit} limits the rows; --rows {ALL} lifts it",)


def _as_typed(issues: Iterable[Issue], choice: RowChoice, way_out: str) -> list[Issue]:
    """Issues of a data config under the names that this command's person knows.

    way_out: what --data could name where the rows cannot be had.
    """
    said = []
    for issue in issues:
        key = FLAGS.get(issue.key, issue.key)
        message = issue.message.replace("data.max_bad_rows=", "--max-bad-rows ").replace(
            "data.rows.train", "--rows"
        )
        if choice.files:
            key = FILES if key.startswith("data.") else key
            message = message.replace("; null numbers the rows", "")
        elif key.startswith("data."):
            # What it advises is for a run that is still to be composed.
            message = message.split("; set data.")[0].split(". Offline, use files")[0]
            message += f"; {FILES} FILE names {way_out}"
        said.append(Issue(key, message))
    return said
