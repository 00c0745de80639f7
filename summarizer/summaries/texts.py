"""One article as a text file or standard input gives it: UTF-8, plain or gzipped."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from pathlib import Path
from typing import Protocol

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
