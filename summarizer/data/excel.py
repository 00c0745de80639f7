"""The rows of an Excel workbook (.xlsx), by openpyxl, which the extra `excel` installs.

A workbook is a zip archive of XML, in which a megabyte can unpack to gigabytes: what it says that it unpacks to is
bounded before anything is, and zipfile reads no more of a part than that.
"""

from __future__ import annotations

import html
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from summarizer.data.readers import (
    LARGEST_ROW_BYTES,
    LARGEST_WHOLE_BYTES,
    BinaryFile,
    damaged,
    opened,
    require_rows,
    require_single,
    whole,
)
from summarizer.data.rows import BadRow, RawRow
from summarizer.errors import ConfigError

PACKAGE = "lora-summarizer[excel]"
MOST_TAGS = 20_000_000
"""Of the XML of a part, whose elements are all held for a moment: a million rows of two texts have half as many."""
MOST_COLUMNS = 16_384
"""Of a sheet. Source: Excel specifications and limits."""
LONGEST_CELL = 32_767
"""Characters of a cell, by the same source; Excel cuts longer texts off without a word."""
HEADER_WITHIN_ROWS = 100
SHEET = re.compile(rb'<(?:\w+:)?sheet\s[^>]*?\bname="([^"]*)"')


def can_read_excel() -> bool:
    return find_spec("openpyxl") is not None


def read_xlsx(path: Path, wanted: frozenset[str]) -> Iterator[RawRow | BadRow]:
    """The first sheet, whose first row that is not blank names the columns."""
    with _sheet(path) as sheet:
        number = blank = begun = 0
        header: list[str] = []
        first_rows = islice(sheet.iter_rows(max_col=MOST_COLUMNS, values_only=True), HEADER_WITHIN_ROWS)
        while not any(header) and (values := next(first_rows, None)) is not None:
            header = ["" if value is None else str(value).strip() for value in values]
            begun += 1
        if not any(header):
            return
        width = max(place for place, name in enumerate(header, start=1) if name)
        require_single(path, header[:width], wanted)
        for values in sheet.iter_rows(min_row=begun + 1, max_col=width, values_only=True):
            if all(value is None for value in values):
                blank += 1
                require_rows(path, blank, number)
                continue
            number += 1
            where = f"{path.name} row {number}"
            if cut := _cut(header, values, wanted):
                yield BadRow(where, cut)
            else:
                yield where, {name: value for name, value in zip(header, values, strict=False) if name}


def sheet_note(path: Path) -> str | None:
    """Which sheet is read, where there are several."""
    try:
        with _archive(path) as archive, archive.open("xl/workbook.xml") as part:
            names = SHEET.findall(part.read(LARGEST_ROW_BYTES))
    except (ConfigError, KeyError, OSError, zipfile.BadZipFile, zlib.error):
        return None  # said where its rows are read
    first = html.unescape(names[0].decode("utf-8", errors="replace")) if names else ""
    return f"{path.name}: its first sheet of {len(names)}, {first!r}, is read" if len(names) > 1 else None


def _cut(header: Sequence[str], values: Sequence[object], wanted: frozenset[str]) -> str | None:
    """Why a row is not whole: Excel keeps no more of a text than LONGEST_CELL characters."""
    for name, value in zip(header, values, strict=False):
        if name in wanted and isinstance(value, str) and len(value) >= LONGEST_CELL:
            return (
                f"column {name!r} has {LONGEST_CELL:,} characters, where Excel cuts a text off; save as CSV"
            )
    return None


@contextmanager
def _sheet(path: Path) -> Iterator[Any]:
    """The first sheet, read as it goes. Raises ConfigError for what is no workbook, or a damaged or endless one."""
    if not can_read_excel():
        raise damaged(path, f"takes a package that is not installed: pip install '{PACKAGE}'")
    from openpyxl import load_workbook

    # Of styles and the like, which nobody reads here.
    warnings.filterwarnings("ignore", category=UserWarning, module="openpyxl")
    with _unpacked(path) as file:
        _require_bounded(path, file)
        try:
            workbook = load_workbook(file, read_only=True, data_only=True)
            if not workbook.worksheets:
                raise damaged(path, "has no sheet of cells")
            sheet = workbook.worksheets[0]
            sheet.reset_dimensions()  # what a workbook says of its size, other programs get wrong
            yield sheet
        except (
            *(zipfile.BadZipFile, zlib.error, ParseError, ValueError, KeyError, IndexError),
            *(TypeError, AttributeError, EOFError, OverflowError, RecursionError, NotImplementedError),
        ) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise damaged(path, f"is not a readable .xlsx workbook: {reason}") from error


@contextmanager
def _unpacked(path: Path) -> Iterator[BinaryFile | BytesIO]:
    """The workbook's bytes; an archive is read from its end, which a gzip stream cannot do."""
    with opened(path) as file:
        yield BytesIO(whole(path, file, "unpack it first")) if path.suffix.lower() == ".gz" else file


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with _unpacked(path) as file, zipfile.ZipFile(file) as archive:
        yield archive


def _require_bounded(path: Path, file: BinaryFile | BytesIO) -> None:
    """Raises ConfigError where a workbook would unpack to more than fits."""
    way_out = "save it as CSV, which is read row by row"
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            if sum(part.file_size for part in parts) > LARGEST_WHOLE_BYTES:
                raise damaged(path, f"unpacks to more than {LARGEST_WHOLE_BYTES >> 20} MiB; {way_out}")
            for part in parts:
                tags = 0
                with archive.open(part) as content:
                    while chunk := content.read(1 << 20):
                        tags += chunk.count(b"<")
                        if tags > MOST_TAGS:
                            raise damaged(
                                path, f"has more than {MOST_TAGS:,} tags in {part.filename}; {way_out}"
                            )
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise damaged(path, f"is not a readable .xlsx workbook: {error}") from error
    file.seek(0)
