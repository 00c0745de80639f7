"""One example as its source gives it, and what makes it unusable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, islice

from summarizer.config.schema import Columns
from summarizer.errors import ConfigError, Issue, nearest

ROWS_THAT_SHOW_COLUMNS = 100
"""A column that none of so many first rows has is a wrong name rather than so many bad rows."""


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
    for name, column in (("article", columns.article), ("summary", columns.summary)):
        named = name if name == column else f"{name} (column {column!r})"
        if column not in raw:
            return BadRow(where, f"{named} is missing")
        value = raw[column]
        if value is None:
            return BadRow(where, f"{named} is null")
        if not isinstance(value, str):
            return BadRow(where, f"{named} is not text but {type(value).__name__}")
        if not value.strip():
            return BadRow(where, f"{named} is empty")
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
    wanted = {"article": columns.article, "summary": columns.summary, "id": columns.id}
    issues = []
    for key, column in wanted.items():
        if column is None or column in names or not mappings:
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
    printable = row_id.encode("utf-8", "backslashreplace").decode()
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
