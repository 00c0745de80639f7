"""A person's own files: which ones a config names, and their rows, read one by one, plain or gzipped.

One row that cannot be read is a BadRow and reading goes on; a file that cannot be read is a ConfigError.
Rows are numbered from 1: the line of a JSONL file, the record after the header of a CSV file, the element of
a JSON array, the row of a Parquet file.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from summarizer.config.paths import resolve_path
from summarizer.config.schema import Columns, DataConfig
from summarizer.data.rows import BadRow, RawRow, require_columns
from summarizer.errors import ConfigError, Issue, nearest

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET_BATCH_ROWS = 256
BinaryFile = gzip.GzipFile | io.BufferedReader


def find_files(key: str, patterns: str | list[str]) -> list[Path]:
    """The files that paths, globs or a list of them name: in that order, each glob's own sorted by name.

    key: the config key that a message names, such as "data.train".
    Raises ConfigError with every pattern that names nothing readable, and for a file named twice.
    """
    issues: list[Issue] = []
    found: list[Path] = []
    resolved: set[Path] = set()
    """The same, however they are spelt."""
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        files, problem = _match(pattern)
        if problem:
            issues.append(Issue(key, problem))
            continue
        for path in files:
            if problem := _problem(path):
                issues.append(Issue(key, problem))
            elif path.resolve() in resolved:
                issues.append(Issue(key, f"{path} is named twice, so its rows would count twice"))
            else:
                found.append(path)
                resolved.add(path.resolve())
    if issues:
        raise ConfigError(issues)
    return found


def check_data_files(spec: DataConfig) -> list[Issue]:
    """What is wrong with the paths of a config, without reading any row: milliseconds."""
    issues: list[Issue] = []
    for split in ("train", "validation", "test"):
        named: str | list[str] | None = getattr(spec, split)
        key = f"data.{split}"
        if spec.source == "hub":
            if isinstance(named, list):
                issues.append(Issue(key, "a hub data set takes one split's name here, not a list"))
        elif named is not None:
            try:
                find_files(key, named)
            except ConfigError as error:
                issues.extend(error.issues)
    return issues


def read_files(paths: Sequence[Path], columns: Columns) -> Iterator[RawRow | BadRow]:
    """Every row of the files, one after the other, with where it lies ("train.jsonl.gz row 17").

    Raises ConfigError for a damaged file, and for a column that no row of a file has.
    """
    wanted = frozenset(name for name in (columns.article, columns.summary, columns.id) if name is not None)
    for path in paths:
        suffix = format_suffix(path)
        assert suffix is not None, f"find_files let {path} through"
        yield from require_columns(READERS[suffix](path, wanted), columns)


def _match(pattern: str) -> tuple[list[Path], str | None]:
    """Files, or why there are none."""
    path = resolve_path(pattern, "data")
    if path.exists():
        return [path], None
    if glob.has_magic(str(path)):
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
        return files, None if files else f"no file matches {pattern!r}"
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    return [], f"no such file: {pattern}" + (f"; did you mean {near!r}?" if near else "")


def _problem(path: Path) -> str | None:
    if path.is_dir():
        return f"{path} is a folder; name its files, such as {path / '*.jsonl'}"
    if format_suffix(path) is None:
        return f"{path} is of no known kind; valid suffixes: {', '.join(READERS)}, each also with .gz"
    if path.stat().st_size == 0:
        return f"{path} is empty"
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"


# ---- their formats -----------------------------------------------------------------------------------------------


def read_jsonl(path: Path, wanted: frozenset[str]) -> Iterator[RawRow | BadRow]:
    """One object a line; blank lines are passed over."""
    with _opened(path) as file:
        yield from _json_lines(path, file)


def read_json(path: Path, wanted: frozenset[str]) -> Iterator[RawRow | BadRow]:
    """An array of objects, or one object a line. Holds the file in memory."""
    with _opened(path) as file:
        content = file.read()
    # Bytes that are no UTF-8 stay in the one text they spoil, as lone surrogates, which check_row refuses.
    text = content.decode("utf-8-sig", errors="surrogateescape")
    if not text.lstrip().startswith("["):
        if "\n" in text.strip() and _is_json(text):
            raise _damaged(path, "holds one object; it must be an array of objects, or one object a line")
        yield from _json_lines(path, io.BytesIO(content))
        return
    try:
        elements = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"is not valid JSON: {error}") from error
    for number, element in enumerate(elements, start=1):
        yield _object_row(f"{path.name} row {number}", element)


def read_csv(path: Path, wanted: frozenset[str]) -> Iterator[RawRow | BadRow]:
    """Comma-separated with a header; quoted fields may span lines (RFC 4180)."""
    csv.field_size_limit(sys.maxsize)  # articles exceed the module's 128 KiB; the limit is its only global
    with _opened(path) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, None)
        except csv.Error as error:
            raise _damaged(path, f"has a malformed header: {error}") from error
        if header is None:
            return
        number = 0
        while True:
            number += 1
            where = f"{path.name} row {number}"
            first_line = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise _damaged(
                        path, f"opens a quote on line {first_line} or after that is never closed"
                    ) from error
                yield BadRow(where, f"malformed CSV near line {reader.line_num}: {error}")
                continue
            if fields is None:
                return
            if not fields:
                number -= 1  # a blank line is no record
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
        with _opened(path) as file:
            # Parquet is read from its end, which a gzip stream cannot do: unpack it first.
            source = pa.BufferReader(file.read()) if path.suffix.lower() == ".gz" else file
            parquet = pq.ParquetFile(source)
            names = set(parquet.schema_arrow.names)
            columns = sorted(wanted) if wanted <= names else None
            number = 0
            for batch in parquet.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns):
                for raw in _batch_rows(batch):
                    number += 1
                    where = f"{path.name} row {number}"
                    yield (where, raw) if raw is not None else BadRow(where, "not valid UTF-8")
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, f"is not a readable Parquet file: {error}") from error


READERS: Mapping[str, Callable[[Path, frozenset[str]], Iterator[RawRow | BadRow]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
"""By suffix, lower case; `.gz` may follow."""


def format_suffix(path: Path) -> str | None:
    """The key of READERS that a file's name asks for, or None."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in READERS else None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryFile]:
    """The file's bytes, unpacked where it ends in .gz. Raises ConfigError for a damaged archive."""
    zipped = path.suffix.lower() == ".gz"
    with gzip.open(path, "rb") if zipped else path.open("rb") as file:
        try:
            yield file
        except EOFError as error:
            raise _damaged(path, "ends in the middle: the .gz file is truncated") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise _damaged(path, f"is not a sound .gz file: {error}") from error


def _damaged(path: Path, what: str) -> ConfigError:
    return ConfigError.single("data", f"{path} {what}")


def _json_lines(path: Path, file: Iterable[bytes]) -> Iterator[RawRow | BadRow]:
    for number, line in enumerate(file, start=1):
        where = f"{path.name} row {number}"
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if not line.strip():
            continue
        try:
            yield _object_row(where, json.loads(line.decode("utf-8")))
        except UnicodeDecodeError as error:
            yield BadRow(where, f"not valid UTF-8 at byte {error.start + 1} of the line")
        except (ValueError, RecursionError) as error:
            yield BadRow(where, f"malformed JSON: {error}")


def _object_row(where: str, element: object) -> RawRow | BadRow:
    if isinstance(element, dict):
        return where, element
    return BadRow(where, f"not an object but {type(element).__name__}")


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
