"""One article as bytes: what is text, what is not, and how that is said."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from summarizer.data import articles
from summarizer.data.articles import UnreadableTextError, looks_like_json_lines, read_text, text_of

REFUSED = {
    b"": "is empty",
    b" \n\t ": "is blank",
    b"\xef\xbb\xbf": "is blank|is empty",
    b"\x89PNG\r\n\0\0": "is binary, not text",
    "naïve".encode("latin-1"): r"is not UTF-8 text \(byte 3\)",
    "text".encode("utf-16"): "is UTF-16; convert it to UTF-8",
}


@pytest.mark.parametrize("content", REFUSED)
def test_what_is_no_text_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableTextError, match=REFUSED[content]):
        text_of(io.BytesIO(content))


def test_text_is_read_as_it_is_without_its_mark(tmp_path: Path) -> None:
    text = "naïve — 日本\r\nline two"
    plain, marked, zipped = tmp_path / "a.txt", tmp_path / "b", tmp_path / "c.txt.GZ"
    plain.write_bytes(text.encode())
    marked.write_bytes(text.encode("utf-8-sig"))
    zipped.write_bytes(gzip.compress(text.encode()))
    assert [read_text(path) for path in (plain, marked, zipped)] == [text] * 3


def test_a_broken_archive_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b"words " * 1000)
    for name, content, reason in (
        ("short.gz", whole[:-12], "truncated"),
        ("none.gz", b"words", "not a sound .gz"),
        ("flipped.gz", whole[:20] + bytes(8) + whole[28:], "not a sound .gz"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableTextError, match=reason):
            read_text(tmp_path / name)


def test_what_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(articles, "LARGEST_TEXT_BYTES", 1 << 20)
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(b"a" * (2 << 20)))
    for path in (bomb, Path("/dev/zero")):
        with pytest.raises(UnreadableTextError, match="longer than 1 MiB"):
            read_text(path)


def test_rows_are_told_from_an_article() -> None:
    assert looks_like_json_lines('{"article": "a"}\n{"article": "b"}\n')
    assert not looks_like_json_lines("{Brackets} open this article.\nIt goes on.")
    assert not looks_like_json_lines('"A quotation"\nopens this one')
