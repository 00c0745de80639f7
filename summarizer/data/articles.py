"""Where articles come from: text files, tables, folders of both, standard input.

Each is an item with a name, or what cannot be summarized and why.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import os
import stat
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Protocol

from summarizer.config.schema import Columns
from summarizer.console.safe_text import file_name
from summarizer.data.columns import NoFieldError, field_value, names_of, recognized_article
from summarizer.data.files import format_suffix, rows_of
from summarizer.data.rows import ROWS_THAT_SHOW_COLUMNS, BadRow, RawRow
from summarizer.data.saved import is_saved, saved_problem
from summarizer.errors import ConfigError, nearest

STDIN = "-"
MOST_BAD_ROWS = 10_000
"""Of a table; each is named, and a megabyte of .gz can hold a thousand times as many."""


@dataclass(frozen=True)
class Item:
    """One article. source: where it lies, for a person, such as "news.jsonl row 3"."""

    id: str
    source: str
    article: str = field(repr=False)
    reference: str | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """Changes with the article's text."""
        return hashlib.sha256(self.article.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class BadItem:
    """What cannot be summarized. reason: words that follow its source, such as "is empty"."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source} {self.reason}"


@dataclass(frozen=True)
class ItemColumns:
    """Where a table's fields are."""

    article: str | list[str] | None
    """Several columns are joined; None recognizes it by its name."""
    reference: str | None
    """Used where a file has it; None where that column is read as the article."""
    id: str | None
    """None numbers the rows, from 0 over all tables, as a split's rows are."""
    id_is_required: bool = False
    """Whether a table without that column is a mistake, or has its rows numbered."""
    messages: str | None = None
    """The column of chat turns, in place of article and reference."""

    def of_rows(self) -> Columns:
        """The same as the columns of a data set."""
        return Columns(article=self.article, summary=self.reference, id=self.id, messages=self.messages)


# ---- one text ----------------------------------------------------------------------------------------------------


LARGEST_TEXT_BYTES = 64 << 20
"""Some fifty novels: what is longer is no article, and neither a device nor an archive bomb ends by itself."""
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Readable(Protocol):
    """What bytes come from: a file, an unpacked one, standard input."""

    def read(self, size: int, /) -> bytes: ...


class UnreadableTextError(ValueError):
    """Why there is no article here, in words that follow its name, such as "is empty"."""


def read_text(path: Path) -> str:
    """A file's text. Raises UnreadableTextError where it has none, OSError where it cannot be opened."""
    zipped = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            return text_of(file)
    except EOFError as error:
        raise UnreadableTextError("ends in the middle: the .gz file is truncated") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableTextError(f"is not a sound .gz file: {error}") from error


def text_of(file: Readable) -> str:
    """All of an open file as one article's text, without a byte order mark.

    Raises UnreadableTextError for what is empty, blank, binary, not UTF-8 or beyond LARGEST_TEXT_BYTES.
    """
    content = file.read(LARGEST_TEXT_BYTES + 1)
    if len(content) > LARGEST_TEXT_BYTES:
        raise UnreadableTextError(f"is longer than {LARGEST_TEXT_BYTES >> 20} MiB, which no article is")
    if content.startswith(UTF16_MARKS):
        raise UnreadableTextError("is UTF-16; convert it to UTF-8")
    if b"\0" in content:
        raise UnreadableTextError("is binary, not text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableTextError(f"is not UTF-8 text (byte {error.start + 1})") from error
    if not text.strip():
        raise UnreadableTextError("is empty" if not text else "is blank")
    return text


def looks_like_json_lines(text: str) -> bool:
    """Whether a text starts with a JSON object on a line of its own, as rows do and articles do not."""
    line = text.lstrip().split("\n", 1)[0]
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


# ---- a table's rows ----------------------------------------------------------------------------------------------


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
    fields = columns.of_rows()
    try:
        fields = recognized_article(fields, names, path.name) if names else fields
    except ConfigError as error:
        yield BadItem(file_name(path), f"is not read: {error.issues[0].fact}; name it by --column")
        return
    if not head:
        yield BadItem(file_name(path), "has no rows" if path.stat().st_size else "is empty")
    id_column = columns.id if columns.id in names else None
    bad = 0
    for row in chain(head, rows):
        if isinstance(row, BadItem):
            yield row
            continue
        item = _item(row, path, fields, id_column, numbering.next)
        yield item
        numbering.next += 1
        bad += isinstance(item, BadItem)
        if bad > MOST_BAD_ROWS:
            yield BadItem(file_name(path), f"has over {MOST_BAD_ROWS:,} unusable rows; its rest was not read")
            return


def _read(path: Path, columns: ItemColumns) -> Iterator[RawRow | BadRow | BadItem]:
    """The rows as far as they can be read, then why not the rest."""
    try:
        yield from rows_of(path, names_of(columns.of_rows()))
    except ConfigError as error:
        for issue in error.issues:
            yield BadItem(file_name(path), issue.message.removeprefix(f"{path} "))
    except OSError as error:
        yield BadItem(file_name(path), f"cannot be read: {error.strerror or error}")


def _missing_column(columns: ItemColumns, names: list[str]) -> str | None:
    """Why a table with these columns cannot be used, in words that follow its name."""
    articles = [columns.article] if isinstance(columns.article, str) else columns.article or []
    if columns.messages is not None:
        articles = [columns.messages]
    wanted = [
        *((name, "--column") for name in articles),
        *([(columns.id, "--id-column")] if columns.id else []),
    ]
    for column, flag in wanted:
        if column in names or (flag == "--id-column" and not columns.id_is_required):
            continue
        near = nearest(column, names)
        return f"has no column {column!r}; its columns are {', '.join(names)}" + (
            f"; did you mean {flag} {near}?" if near else f"; name one by {flag}"
        )
    return None


def _item(
    row: RawRow | BadRow, path: Path, columns: Columns, id_column: str | None, number: int
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
    try:
        article = field_value(raw, columns, "article")
    except NoFieldError as error:
        if columns.messages is None and str(error) == "is missing":
            return BadItem(source, f"has no column {columns.article!r}")
        return BadItem(source, f"has no article: column {columns.messages!r} {error}")
    if not isinstance(article, str):
        kind = "null" if article is None else f"not text but {type(article).__name__}"
        return BadItem(source, f"has no article: column {columns.article!r} is {kind}")
    if not article.strip():
        return BadItem(source, f"has no article: column {columns.article!r} is empty")
    if not _is_unicode(row_id + article):
        return BadItem(source, "is not valid UTF-8")
    return Item(row_id, source, article, _reference(raw, columns))


def _reference(raw: Mapping[str, object], columns: Columns) -> str | None:
    try:
        value = field_value(raw, columns, "summary")
    except NoFieldError:
        return None
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


# ---- all that a command line names -------------------------------------------------------------------------------


def read_items(
    names: Sequence[str], columns: ItemColumns, *, left_out: Collection[Path] = ()
) -> Iterator[Item | BadItem]:
    """Every article that these names stand for, in their order, all read once.

    names: text files, tables (`data.files`), folders, "-" for standard input. A folder is all files in it and
    below, sorted, hidden ones left out, and those `left_out` (resolved paths), such as what is being written.
    """
    numbering = Numbering()
    seen: set[Path] = set()
    for name in names:
        if name == STDIN:
            yield _standard_input()
            continue
        for path in _files(Path(name), left_out):
            if isinstance(path, BadItem):
                yield path
            elif path.resolve() in seen:
                yield BadItem(file_name(path), "is named twice")
            else:
                seen.add(path.resolve())
                table = path.is_dir() or format_suffix(path) is not None
                yield from read_table(path, columns, numbering) if table else [_text_file(path)]


def _files(path: Path, left_out: Collection[Path]) -> Iterator[Path | BadItem]:
    if not path.is_dir() or is_saved(path):
        yield path if not path.is_dir() or not (why := saved_problem(path)) else BadItem(file_name(path), why)
        return
    found = False
    broken: list[OSError] = []
    for folder, below, names in os.walk(path, onerror=broken.append):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if name.startswith(".") or file.resolve() in left_out:
                continue
            found = True
            yield (
                file
                if file.is_file() or not file.exists()
                else BadItem(file_name(file), "is no regular file")
            )
    for error in broken:
        yield BadItem(file_name(Path(error.filename)), f"cannot be read: {error.strerror}")
    if not found and not broken:
        yield BadItem(file_name(path), "is a folder without a file to read")


def _text_file(path: Path) -> Item | BadItem:
    try:
        if stat.S_ISBLK(path.stat().st_mode):
            return BadItem(file_name(path), "is no regular file")
        return Item(file_name(path), file_name(path), read_text(path))
    except UnreadableTextError as error:
        return BadItem(file_name(path), str(error))
    except OSError as error:
        return BadItem(file_name(path), f"cannot be read: {error.strerror}")


def _standard_input() -> Item | BadItem:
    source = "standard input"
    try:
        text = text_of(sys.stdin.buffer)
    except UnreadableTextError as error:
        return BadItem(source, str(error))
    if looks_like_json_lines(text):
        return BadItem(source, "looks like JSON Lines, but is read as one article; save it in a .jsonl file")
    return Item(STDIN, source, text)
