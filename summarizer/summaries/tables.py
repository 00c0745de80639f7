"""The rows of a JSONL, JSON, CSV or Parquet file as items to summarize."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from summarizer.config.nearest import nearest
from summarizer.console.safe_text import file_name
from summarizer.data.formats import READERS, format_suffix
from summarizer.data.rows import ROWS_THAT_SHOW_COLUMNS, BadRow, RawRow
from summarizer.errors import ConfigError
from summarizer.summaries.items import BadItem, Item, ItemColumns


@dataclass
class Numbering:
    """Counts rows over all tables, those that cannot be used included."""

    next: int = 0


def read_table(path: Path, columns: ItemColumns, numbering: Numbering) -> Iterator[Item | BadItem]:
    """A table's rows. One that cannot be used is a BadItem; so is a file that is damaged or lacks a column."""
    rows = _read(path, columns)
    head = list(islice(rows, ROWS_THAT_SHOW_COLUMNS))
    names = list(dict.fromkeys(str(name) for row in head if isinstance(row, tuple) for name in row[1]))
    if names and (missing := _missing_column(columns, names)):
        yield BadItem(file_name(path), missing)
        return
    if not head:
        yield BadItem(file_name(path), "has no rows" if path.stat().st_size else "is empty")
    id_column = columns.id if columns.id in names else None
    for row in chain(head, rows):
        if isinstance(row, BadItem):
            yield row
            continue
        yield _item(row, path, columns, id_column, numbering.next)
        numbering.next += 1


def _read(path: Path, columns: ItemColumns) -> Iterator[RawRow | BadRow | BadItem]:
    """The rows as far as they can be read, then why not the rest."""
    suffix = format_suffix(path)
    assert suffix is not None
    wanted = (columns.article, columns.reference, columns.id)
    try:
        yield from READERS[suffix](path, frozenset(name for name in wanted if name is not None))
    except ConfigError as error:
        for issue in error.issues:
            yield BadItem(file_name(path), issue.message.removeprefix(f"{path} "))
    except OSError as error:
        yield BadItem(file_name(path), f"cannot be read: {error.strerror or error}")


def _missing_column(columns: ItemColumns, names: list[str]) -> str | None:
    """Why a table with these columns cannot be used, in words that follow its name."""
    for column, flag in ((columns.article, "--column"), (columns.id, "--id-column")):
        if column is None or column in names or (flag == "--id-column" and not columns.id_is_required):
            continue
        near = nearest(column, names)
        return f"has no column {column!r}; its columns are {', '.join(names)}" + (
            f"; did you mean {flag} {near}?" if near else f"; name one by {flag}"
        )
    return None


def _item(
    row: RawRow | BadRow, path: Path, columns: ItemColumns, id_column: str | None, number: int
) -> Item | BadItem:
    if isinstance(row, BadRow):
        return BadItem(_place(path, row.where), f"cannot be read: {row.reason}")
    where, raw = row
    source = _place(path, where)
    row_id = str(number)
    if id_column is not None:
        value = raw.get(id_column)
        if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
            return BadItem(
                source, f"has no id: column {id_column!r} is missing, empty, or no text or whole number"
            )
        row_id = str(value)
    if columns.article not in raw:
        return BadItem(source, f"has no column {columns.article!r}")
    article = raw[columns.article]
    if not isinstance(article, str):
        kind = "null" if article is None else f"not text but {type(article).__name__}"
        return BadItem(source, f"has no article: column {columns.article!r} is {kind}")
    if not article.strip():
        return BadItem(source, f"has no article: column {columns.article!r} is empty")
    if not _is_unicode(row_id + article):
        return BadItem(source, "is not valid UTF-8")
    return Item(row_id, source, article, _reference(raw, columns))


def _reference(raw: Mapping[str, object], columns: ItemColumns) -> str | None:
    value = raw.get(columns.reference)
    return value if isinstance(value, str) and value.strip() and _is_unicode(value) else None


def _place(path: Path, where: str) -> str:
    """Readers name a file without its folder; two folders may have one of that name."""
    return f"{file_name(path)}{where.removeprefix(path.name)}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that were no UTF-8, or a JSON escape of half a pair
        return False
    return True
