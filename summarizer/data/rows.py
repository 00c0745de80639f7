"""One example as its source gives it, what makes it unusable, and how many of a split's rows are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING

from summarizer.config.schema import Columns
from summarizer.console.safe_text import escaped
from summarizer.data.columns import Field, NoFieldError, described, field_value, named_columns
from summarizer.errors import ConfigError, Issue, nearest

if TYPE_CHECKING:
    from summarizer.data.prompt import Prompt

ROWS_THAT_SHOW_COLUMNS = 100
"""A column that none of so many first rows has is a wrong name rather than so many bad rows."""
BAD_ROWS_SHOWN = 5
MOST_COUNTED = 10_000
"""Unusable rows beyond those that a config accepts; after so many more, the rest of a file is not read."""
LONGEST_TEXT = 16 << 20
"""Characters of an article or a summary; some five times War and Peace."""
SAME_ID = "an earlier row has this id"


@dataclass(frozen=True)
class Row:
    """A usable example: texts that are not blank, valid Unicode and free of control tokens."""

    id: str
    article: str
    summary: str
    where: str = field(default="", compare=False)
    """Where it lies, for messages; as BadRow.where."""


@dataclass(frozen=True)
class BadRow:
    """An example that cannot be used. where: such as "train.jsonl.gz row 17 (id 8f1c)"."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class TokenizedRow:
    """A usable row and its tokens, the article's uncut."""

    row: Row
    article_ids: Sequence[int]
    target_ids: Sequence[int]


RawRow = tuple[str, Mapping[str, object]]
"""Where a row lies and its columns, unchecked."""


def check_row(
    raw: Mapping[str, object], columns: Columns, where: str, index: int, control_tokens: frozenset[str]
) -> Row | BadRow:
    """The row, or the first thing that is wrong with it.

    index: the row's number in its split, from 0: its id where `columns.id` is null.
    """
    row_id = str(index) if columns.id is None else _id_text(raw, columns.id)
    if row_id is None:
        return BadRow(where, f"column {columns.id!r} is missing, empty or neither text nor a whole number")
    if columns.id is not None:
        where = f"{where} (id {_shown(row_id)})"
        if not _is_unicode(row_id):
            return BadRow(where, "the id is not valid UTF-8")
    texts: list[str] = []
    fields: tuple[Field, ...] = ("article", "summary")
    for field_name in fields:
        named = described(columns, field_name)
        try:
            value = field_value(raw, columns, field_name)
        except NoFieldError as error:
            return BadRow(where, f"{named} {error}")
        if value is None:
            return BadRow(where, f"{named} is null")
        if not isinstance(value, str):
            return BadRow(where, f"{named} is not text but {type(value).__name__}")
        if not value.strip():
            return BadRow(where, f"{named} is empty")
        if len(value) > LONGEST_TEXT:
            return BadRow(
                where, f"{named} has {len(value):,} characters, over {LONGEST_TEXT:,}, as no text here"
            )
        if not _is_unicode(value):
            return BadRow(where, f"{named} is not valid UTF-8")
        if token := _control_token_in(value, control_tokens):
            return BadRow(where, f"{named} spells out the control token {token}")
        texts.append(value)
    return Row(row_id, texts[0], texts[1], where)


def require_columns(rows: Iterable[RawRow | BadRow], columns: Columns) -> Iterator[RawRow | BadRow]:
    """The same rows. Raises ConfigError, at once, where the rows have no column of a configured name.

    Decided on the first ROWS_THAT_SHOW_COLUMNS rows; a row that alone lacks a column is a bad row.
    """
    stream = iter(rows)
    head = list(islice(stream, ROWS_THAT_SHOW_COLUMNS))
    mappings = [row[1] for row in head if not isinstance(row, BadRow)]
    names = list(dict.fromkeys(str(name) for raw in mappings for name in raw))
    issues = []
    for key, column in named_columns(columns):
        if column in names or not mappings:
            continue
        near = nearest(column, names)
        issues.append(
            Issue(
                f"data.columns.{key}",
                f"no column {column!r} in {_place(head)}; its columns are {', '.join(names) or 'none'}"
                + (f"; did you mean {near!r}?" if near else ""),
                "null numbers the rows" if key == "id" else "",
            )
        )
    if issues:
        raise ConfigError(issues)
    return chain(head, stream)


def _place(rows: Iterable[RawRow | BadRow]) -> str:
    """The source of the first readable row, for a message: "train.jsonl" of "train.jsonl row 1"."""
    return next(row[0] for row in rows if not isinstance(row, BadRow)).rsplit(" row ", 1)[0]


def _id_text(raw: Mapping[str, object], column: str) -> str | None:
    value = raw.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value.strip() else None


def _shown(row_id: str) -> str:
    printable = escaped(row_id)
    return printable if len(printable) <= 40 else printable[:40] + "…"


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate: bytes that were no UTF-8, or a JSON escape of half a pair
        return False
    return True


@lru_cache(maxsize=4)
def _by_start(control_tokens: frozenset[str]) -> dict[str, tuple[str, ...]]:
    starts: dict[str, list[str]] = {}
    for token in sorted(control_tokens):
        starts.setdefault(token[:2], []).append(token)
    return {start: tuple(tokens) for start, tokens in starts.items()}


def _control_token_in(text: str, control_tokens: frozenset[str]) -> str | None:
    # Some vocabularies have thousands of them, nearly all of which start alike: "<|", "<unused".
    for start, tokens in _by_start(control_tokens).items():
        if start in text:
            for token in tokens:
                if token in text:
                    return token
    return None


# ---- what was read into a split ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SplitReport:
    """rows: usable ones.  cut_rows: those whose article is cut in training, by cut_tokens in all."""

    name: str
    rows: int
    bad: tuple[BadRow, ...]
    cut_rows: int
    cut_tokens: int

    def describe(self) -> str:
        """One line, as "train: 1,000 rows; 312 articles cut, by 210 tokens on average; 2 rows skipped …"."""
        parts = [f"{self.name}: {_count(self.rows, 'row')}"]
        if self.cut_rows:
            average = round(self.cut_tokens / self.cut_rows)
            parts.append(f"{_count(self.cut_rows, 'article')} cut, by {average:,} tokens on average")
        else:
            parts.append("no article cut")
        if self.bad:
            parts.append(f"{_count(len(self.bad), 'row')} skipped ({first_bad_rows(self.bad)})")
        return "; ".join(parts)


class Tally:
    """Counts rows as they come, towards a SplitReport."""

    def __init__(self, name: str, prompt: Prompt) -> None:
        self._name, self._prompt = name, prompt
        self._bad: dict[str, BadRow] = {}  # by place, so that a second pass over a stream counts none twice
        self.rows = self._cut_rows = self._cut_tokens = 0

    @property
    def bad_rows(self) -> int:
        return len(self._bad)

    def skip(self, row: BadRow) -> None:
        self._bad.setdefault(row.where, row)

    def add(self, row: TokenizedRow) -> None:
        cut = max(0, len(row.article_ids) - self._prompt.room(len(row.target_ids)))
        self.rows += 1
        self._cut_rows += cut > 0
        self._cut_tokens += cut

    def report(self) -> SplitReport:
        return SplitReport(
            self._name,
            self.rows,
            tuple(self._bad.values()),
            self._cut_rows,
            self._cut_tokens,
        )


def check_bad_rows(report: SplitReport, max_bad_rows: int) -> None:
    """Raises ConfigError where more rows are unusable than the config accepts, or none is usable."""
    if len(report.bad) > max_bad_rows:
        count = len(report.bad)
        numbered = any(row.reason == SAME_ID for row in report.bad)
        advice = "mend them"
        if all_counted := count <= max_bad_rows + MOST_COUNTED:
            advice += f", or skip them with data.max_bad_rows={count}"
        if numbered:
            advice += ", or number the rows with data.columns.id=null"
        raise ConfigError.single(
            "data.max_bad_rows",
            f"{'' if all_counted else 'at least '}{_count(count, 'unusable row')} in data.{report.name}, "
            f"{max_bad_rows:,} accepted: {first_bad_rows(report.bad)}",
            advice,
        )
    if report.rows == 0:
        skipped = f": {first_bad_rows(report.bad)}" if report.bad else ""
        raise ConfigError.single(f"data.{report.name}", f"has no usable row{skipped}")


def first_bad_rows(bad: tuple[BadRow, ...]) -> str:
    """The first few by name, the rest by number."""
    shown = "; ".join(str(row) for row in islice(bad, BAD_ROWS_SHOWN))
    left = len(bad) - BAD_ROWS_SHOWN
    return f"{shown}; and {left:,} more" if left > 0 else shown


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
