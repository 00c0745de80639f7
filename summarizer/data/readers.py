"""The rows of a file, read one by one, plain or gzipped: JSON Lines, a JSON array, CSV and its like, Parquet.

One row that cannot be read is a BadRow and reading goes on; a file that cannot be read is a ConfigError. So is one
that would be read for ever or take all memory: a megabyte of .gz can hold a line of gigabytes, or blank ones.
Rows are numbered from 1: the line of a JSONL file, the record after the header of a CSV file, the element of
a JSON array, the row of a Parquet file.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from summarizer.data.columns import ARTICLES, INSTRUCTION, MESSAGES, SUMMARIES
from summarizer.data.rows import BadRow, RawRow
from summarizer.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET_BATCH_ROWS = 256
LARGEST_ROW_BYTES = 16 << 20
"""Of a line of JSON or a record of CSV. Five times War and Peace: what is longer is no article with its summary."""
LARGEST_WHOLE_BYTES = 512 << 20
"""Of what is held in memory as a whole: a JSON array, an unpacked Parquet file. JSON Lines have no such limit."""
MOST_BLANK_LINES = 1_000_000
"""Of a file, beside ten for each of its rows."""
BinaryFile = gzip.GzipFile | io.BufferedReader


def read_jsonl(path: Path, wanted: frozenset[str]) -> Iterator[RawRow | BadRow]:
    """One object a line; blank lines are passed over."""
    with opened(path) as file:
        yield from _json_lines(path, file, wanted)


def read_json(path: Path, wanted: frozenset[str]) -> Iterator[RawRow | BadRow]:
    """An array of objects, or one object a line. Holds the file in memory."""
    with opened(path) as file:
        content = whole(path, file, "save it as JSON Lines, which are read one by one")
    # Bytes that are no UTF-8 stay in the one text they spoil, as lone surrogates, which check_row refuses.
    text = content.decode("utf-8-sig", errors="surrogateescape")
    if not text.lstrip().startswith("["):
        if "\n" in text.strip() and _is_json(text):
            raise damaged(path, "holds one object; it must be an array of objects, or one object a line")
        yield from _json_lines(path, io.BytesIO(content), wanted)
        return
    try:
        elements = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"is not valid JSON: {error}") from error
    for number, element in enumerate(elements, start=1):
        yield _object_row(f"{path.name} row {number}", element, wanted)


def read_csv(path: Path, wanted: frozenset[str]) -> Iterator[RawRow | BadRow]:
    """Separated by commas, semicolons, tabs or pipes, with a header; quoted fields may span lines (RFC 4180)."""
    csv.field_size_limit(sys.maxsize)  # articles exceed the module's 128 KiB; the limit is its only global
    with opened(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        lines = _RecordLines(path, text)
        first = next(lines, "")
        if first.startswith(UTF16_MARKS):
            raise damaged(path, "is UTF-16; save it as UTF-8 (Excel: CSV UTF-8)")
        if (declared := SEP_LINE.fullmatch(first)) is not None:  # which Excel writes and hides
            separator, first = declared[1], next(lines, "")
        else:
            separator = _separator(first, wanted, path)
        reader = csv.reader(chain([first] if first else [], lines), delimiter=separator, strict=True)
        try:
            header = next(reader, None)
        except csv.Error as error:
            raise damaged(path, f"has a malformed header: {error}") from error
        if header is None:
            return
        require_single(path, header, wanted)
        number = 0
        while True:
            lines.begin_record()
            number += 1
            where = f"{path.name} row {number}"
            first_line = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise damaged(
                        path, f"opens a quote on line {first_line} or after that is never closed"
                    ) from error
                yield BadRow(where, f"malformed CSV near line {reader.line_num}: {error}")
                continue
            if fields is None:
                return
            if not fields:
                number -= 1  # a blank line is no record
                lines.blank += 1
                require_rows(path, lines.blank, number)
            elif len(fields) != len(header):
                yield BadRow(where, f"{len(fields)} fields under a header of {len(header)}")
            elif _has_surrogate(fields):
                yield BadRow(where, "not valid UTF-8")
            else:
                yield where, dict(zip(header, fields, strict=True))


def read_parquet(path: Path, wanted: frozenset[str]) -> Iterator[RawRow | BadRow]:
    """Reads the wanted columns alone where the file has them; otherwise all, for a message to list."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with opened(path) as file:
            # Parquet is read from its end, which a gzip stream cannot do: unpack it first.
            zipped = path.suffix.lower() == ".gz"
            source = pa.BufferReader(whole(path, file, "unpack it first")) if zipped else file
            parquet = pq.ParquetFile(source)
            require_single(path, parquet.schema_arrow.names, wanted)
            names = set(parquet.schema_arrow.names)
            columns = sorted(wanted) if wanted and wanted <= names else None
            number = 0
            for batch in parquet.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns):
                for raw in _batch_rows(batch):
                    number += 1
                    where = f"{path.name} row {number}"
                    yield (where, raw) if raw is not None else BadRow(where, "not valid UTF-8")
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, f"is not a readable Parquet file: {error}") from error


SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
SEP_LINE = re.compile(r"sep=([,;\t|])\r?\n")
UTF16_MARKS = tuple(
    mark.decode("utf-8", "surrogateescape") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
)
KNOWN_NAMES = frozenset((*ARTICLES, *SUMMARIES, INSTRUCTION, MESSAGES, "id"))


def separator_of(path: Path) -> str:
    """What separates the fields of a file that is read as CSV, by its first line."""
    with opened(path) as file:
        first = file.readline(LARGEST_ROW_BYTES).decode("utf-8-sig", errors="replace")
    if (declared := SEP_LINE.fullmatch(first)) is not None:
        return declared[1]
    return _separator(first, frozenset(), path)


def _separator(header: str, wanted: frozenset[str], path: Path) -> str:
    """That by which a header has the most of the wanted or known names, then the most names at all."""
    usual = "\t" if ".tsv" in (suffix.lower() for suffix in path.suffixes) else ","

    def merit(separator: str) -> tuple[int, int, bool]:
        names = next(csv.reader([header], delimiter=separator), [])
        meant = sum(name in wanted or name.strip().casefold() in KNOWN_NAMES for name in names)
        return meant, len(names), separator == usual

    return max(SEPARATORS, key=merit)


@contextmanager
def opened(path: Path) -> Iterator[BinaryFile]:
    """The file's bytes, unpacked where it ends in .gz. Raises ConfigError for a damaged archive."""
    zipped = path.suffix.lower() == ".gz"
    with gzip.open(path, "rb") if zipped else path.open("rb") as file:
        try:
            yield file
        except EOFError as error:
            raise damaged(path, "ends in the middle: the .gz file is truncated") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise damaged(path, f"is not a sound .gz file: {error}") from error


def damaged(path: Path, what: str) -> ConfigError:
    """The mistake that a file is. what: words that follow its name."""
    return ConfigError.single("data", f"{path} {what}")


def _json_lines(path: Path, file: BinaryLines, wanted: frozenset[str]) -> Iterator[RawRow | BadRow]:
    number = blank = 0
    while line := file.readline(LARGEST_ROW_BYTES + 1):
        number += 1
        if len(line) > LARGEST_ROW_BYTES:
            raise _too_long(path, number)
        where = f"{path.name} row {number}"
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if not line.strip():
            blank += 1
            require_rows(path, blank, number - blank)
            continue
        try:
            yield _object_row(where, json.loads(line.decode("utf-8"), object_pairs_hook=_object), wanted)
        except UnicodeDecodeError as error:
            yield BadRow(where, f"not valid UTF-8 at byte {error.start + 1} of the line")
        except (ValueError, RecursionError) as error:
            yield BadRow(where, f"malformed JSON: {error}")


class _DoubledKeys(dict[str, object]):
    """A JSON object in which a key occurs more than once: Python, as most readers, would keep the last."""

    def __init__(self, pairs: Sequence[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.doubled = _doubled(name for name, _ in pairs)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _DoubledKeys(pairs)


def _object_row(where: str, element: object, wanted: frozenset[str]) -> RawRow | BadRow:
    if isinstance(element, _DoubledKeys) and (doubled := [key for key in element.doubled if key in wanted]):
        return BadRow(where, f"has the key {doubled[0]!r} more than once")
    if isinstance(element, dict):
        return where, element
    return BadRow(where, f"not an object but {type(element).__name__}")


def _doubled(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _has_surrogate(fields: list[str]) -> bool:
    return any(
        "\ud800" <= character <= "\udfff" for field in fields if not field.isascii() for character in field
    )


def _batch_rows(batch: pa.RecordBatch) -> Iterator[dict[str, object] | None]:
    """The rows of a batch; None for one whose bytes are no UTF-8, which Parquet does not check."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None


# ---- what no file of articles is ---------------------------------------------------------------------------------


class BinaryLines(Protocol):
    """What lines of bytes come from: a file, an unpacked one, bytes in memory."""

    def readline(self, size: int, /) -> bytes: ...


class _RecordLines:
    """The lines of a CSV file, whose records may be of several: none of more than LARGEST_ROW_BYTES characters."""

    def __init__(self, path: Path, text: io.TextIOWrapper) -> None:
        self._path, self._text = path, text
        self._number = self._characters = 0
        self.blank = 0
        """Blank lines so far, which the reader counts."""

    def begin_record(self) -> None:
        self._characters = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(LARGEST_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        self._number += 1
        self._characters += len(line)
        if self._characters > LARGEST_ROW_BYTES:
            raise _too_long(self._path, self._number)
        return line


def _too_long(path: Path, line: int) -> ConfigError:
    return damaged(
        path,
        f"holds a row of over {LARGEST_ROW_BYTES >> 20} MiB at line {line}, which no article is; leave it out",
    )


def require_rows(path: Path, blank: int, rows: int) -> None:
    """Raises ConfigError where a file is hardly more than blank lines."""
    if blank > MOST_BLANK_LINES + 10 * rows:
        raise damaged(
            path, f"has over {MOST_BLANK_LINES:,} blank lines and {rows:,} rows; leave those lines out"
        )


def whole(path: Path, file: BinaryFile, way_out: str) -> bytes:
    """All of a file. Raises ConfigError where that is more than LARGEST_WHOLE_BYTES."""
    content = file.read(LARGEST_WHOLE_BYTES + 1)
    if len(content) > LARGEST_WHOLE_BYTES:
        raise damaged(path, f"is larger than {LARGEST_WHOLE_BYTES >> 20} MiB; {way_out}")
    return content


def require_single(path: Path, header: Sequence[str], wanted: Collection[str]) -> None:
    """Raises ConfigError where a wanted column is there twice: which of them is meant?"""
    if doubled := [name for name in _doubled(header) if name in wanted]:
        raise damaged(path, f"has more than one column {doubled[0]!r}; rename all but one")
