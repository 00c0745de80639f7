"""Which rows are scored: those of the runs' own split, or of files that a person names."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from summarizer.config.rules import columns_are_distinct
from summarizer.config.schema import Columns, DataConfig, RowLimits
from summarizer.config.shared_flags import RowFlags
from summarizer.data.hold_out import SplitName, hold_out_of, rows_from
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt
from summarizer.data.rows import first_bad_rows
from summarizer.data.sources import open_source
from summarizer.data.splits import build_split
from summarizer.errors import ConfigError, Issue
from summarizer.evaluation.record import RowsPart

FILES = "--data"

log = logging.getLogger(__name__)


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
    """The rows as in training, for the loss; None where the prompt is not the training's."""
    notes: tuple[str, ...] = ()
    """What a reader of the scores has to know of these rows."""

    @property
    def ids_sha256(self) -> str:
        """The digest of the rows' ids in their order."""
        listed = json.dumps(list(self.ids), ensure_ascii=False)
        return hashlib.sha256(listed.encode()).hexdigest()

    @property
    def texts_sha256(self) -> str:
        """The digest of ids, articles and references: it changes with anything that changes a score."""
        texts = json.dumps([list(self.ids), list(self.articles), list(self.references)], ensure_ascii=False)
        return hashlib.sha256(texts.encode()).hexdigest()

    def part(self) -> RowsPart:
        """The rows as a file of scores names them."""
        return RowsPart(
            data=self.data,
            split=self.split,
            count=len(self.ids),
            ids_sha256=self.ids_sha256,
            texts_sha256=self.texts_sha256,
        )


def own_rows(spec: DataConfig, split: SplitName, label: str, flags: RowFlags, prompt: Prompt) -> ScoredRows:
    """Rows of a run's own data, or of the files chosen: those that the run itself would be scored on.

    label: what a message and the scores call the split.
    Raises ConfigError under the names of the flags; where the run's own data is gone, it names --data.
    """
    chosen = data_of(spec, split, flags)
    try:
        if doubled := list(columns_are_distinct(chosen)):
            raise ConfigError(doubled)
        found = build_split(chosen, split, prompt)
    except ConfigError as error:
        raise by_flags(error, flags, "other rows to score on") from error
    for note in found.notes:
        log.info("%s", note)
    if found.report.bad:
        log.warning(
            "%d unusable rows are left out: %s", len(found.report.bad), first_bad_rows(found.report.bad)
        )
    notes = limit_notes(chosen, split, flags, len(found))
    return ScoredRows(
        data=described(chosen, split),
        split=label,
        ids=found.rows["id"],
        articles=found.rows["article"],
        references=found.rows["summary"],
        encoded=lambda: found.encoded(range(len(found))),
        notes=notes,
    )


def require_same_rows(specs: Mapping[str, DataConfig], split: SplitName, flags: RowFlags) -> None:
    """Runs are compared on the same rows, so that what each of them calls its split has to be the same rows.

    specs: the runs' data configs by the runs' names.
    Raises ConfigError with every run whose rows are not the first one's, and the keys in which it differs.
    """
    (first_name, first), *others = ((name, data_of(spec, split, flags)) for name, spec in specs.items())
    read, _ = rows_from(first, split)  # train, where a number of its rows are the validation rows
    named = dict.fromkeys((read, split, "validation" if split == "train" else split))
    compared = ("source", "path", "config", "revision", *named, "columns", "rows_seed", "max_bad_rows")
    issues = []
    for name, data in others:
        differ = [
            key
            for key in compared
            if getattr(data, key) != getattr(first, key)
            # Where validation rows are matters to those of train only if they are taken out of it.
            and not (split == "train" and key == "validation" and hold_out_of(data) == hold_out_of(first))
        ]
        if getattr(data.rows, split) != getattr(first.rows, split):
            differ.append(f"rows.{split}")
        if differ:
            keys = ", ".join(f"data.{key}" for key in differ)
            issues.append(
                Issue(
                    "--split",
                    f"{name} and {first_name} have other {split} rows ({keys} differ); name rows for both by "
                    "--data, or as many by --rows",
                )
            )
    if issues:
        raise ConfigError(issues)


def data_of(spec: DataConfig, split: SplitName, flags: RowFlags) -> DataConfig:
    """A run's data config with what the command line says of the rows in its place."""
    changed: dict[str, object] = {}
    limits = spec.rows
    if flags.data:
        changed |= {"source": "files", "path": None, "config": None, "revision": None, "streaming": False}
        changed |= {"rows_seed": None, "validation": None, split: list(flags.data)}
        limits = RowLimits(train=None, validation=None, test=None)
    typed = {"article": flags.column, "summary": flags.summary_column, "id": flags.id_column}
    named: dict[str, str | None] = {key: name for key, name in typed.items() if name is not None}
    if {"article", "summary"} & named.keys():
        named["messages"] = None
    columns = Columns(**spec.columns.model_dump() | named)
    if flags.rows is not None:
        limits = limits.model_copy(update={split: None if flags.rows == "all" else flags.rows})
    if flags.max_bad_rows is not None:
        changed["max_bad_rows"] = flags.max_bad_rows
    found = spec.model_copy(update=changed | {"rows": limits, "columns": columns})
    return _numbered_without_ids(found, split) if flags.data and flags.id_column is None else found


def described(spec: DataConfig, split: SplitName) -> str:
    """Where the rows come from, as a person names it."""
    if spec.source == "hub":
        return " ".join(part for part in (spec.path, spec.config, spec.revision) if part)
    _, named = rows_from(spec, split)
    where = named if isinstance(named, str) else ", ".join(named or ())
    held = hold_out_of(spec) if split == "validation" else None
    return where if held is None else f"{where} ({held} held out)"


def _numbered_without_ids(spec: DataConfig, split: SplitName) -> DataConfig:
    """The data config, with its rows numbered where the files lack the column that the run's own ids are in."""
    try:
        next(iter(open_source(spec, split).read()), None)
    except ConfigError as error:
        if [issue.key for issue in error.issues] == ["data.columns.id"]:
            return spec.model_copy(update={"columns": spec.columns.model_copy(update={"id": None})})
    return spec  # anything else that is wrong is said where the rows are read in earnest


def limit_notes(spec: DataConfig, split: SplitName, flags: RowFlags, count: int) -> tuple[str, ...]:
    """What a reader has to know of how many rows there are, where they are not all.  count: how many there are."""
    limit: int | None = getattr(spec.rows, split)
    if limit is None:
        return ()
    if isinstance(flags.rows, int):
        return (f"{limit:,} rows were asked for, but there are only {count:,}",) if count < limit else ()
    return (f"the run's own data.rows.{split}={limit} limits the rows; --rows all lifts it",)


def by_flags(error: ConfigError, flags: RowFlags, way_out: str) -> ConfigError:
    """An error about rows under the names that were typed: a flag's for the config key that it takes the place of.

    way_out: what --data could name where the run's own rows cannot be had.
    """
    issues = []
    for issue in error.issues:
        flag = flags.flag_for(issue.key)
        if not issue.key.startswith("data"):
            issues.append(issue)
        elif flags.data:  # the config has no part in these rows
            issues.append(Issue(flag or FILES, issue.fact))
        else:
            issues.append(Issue(flag or issue.key, issue.fact, f"{FILES} FILE names {way_out}"))
    return ConfigError(issues)
