"""Where articles come from: text files, tables, folders of both, standard input."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from summarizer.console.safe_text import file_name
from summarizer.data.formats import format_suffix
from summarizer.summaries.items import BadItem, Item, ItemColumns
from summarizer.summaries.tables import Numbering, read_table
from summarizer.summaries.texts import UnreadableTextError, looks_like_json_lines, read_text, text_of

STDIN = "-"


def read_items(
    names: Sequence[str], columns: ItemColumns, *, left_out: Collection[Path] = ()
) -> Iterator[Item | BadItem]:
    """Every article that these names stand for, in their order, all read once.

    names: text files, tables (`data.formats`), folders, "-" for standard input. A folder is all files in it and
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
                yield from read_table(path, columns, numbering) if format_suffix(path) else [_text_file(path)]


def _files(path: Path, left_out: Collection[Path]) -> Iterator[Path | BadItem]:
    if not path.is_dir():
        yield path
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
