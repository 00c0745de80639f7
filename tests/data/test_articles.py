"""Files, tables, folders and standard input as items."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from summarizer.data.articles import BadItem, Item, ItemColumns, read_items

COLUMNS = ItemColumns(article="article", reference="highlights", id=None)
ROWS = [
    {"article": "first, with\na break", "highlights": "one", "key": "k1"},
    {"article": "second", "highlights": "", "key": "k2"},
]


def read(*names: object, columns: ItemColumns = COLUMNS, **more: object) -> list[Item | BadItem]:
    return list(read_items([str(name) for name in names], columns, **more))  # type: ignore[arg-type]


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    """By the standard library and pyarrow, as other programs would."""
    if ".parquet" in path.suffixes:
        pq.write_table(pa.Table.from_pylist(rows), path)
        return
    text = io.StringIO()
    if ".csv" in path.suffixes:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    elif ".json" in path.suffixes:
        json.dump(rows, text)
    else:
        text.writelines(json.dumps(row) + "\n" for row in rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".csv.gz"])
def test_every_format_gives_the_same_items(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"news{suffix}"
    write_table(path, ROWS)
    assert read(path) == [
        Item("0", f"{path} row 1", "first, with\na break", "one"),
        Item("1", f"{path} row 2", "second", None),
    ]
    keyed = read(path, columns=ItemColumns("article", "none such", "key"))
    assert [(item.id, item.reference) for item in keyed if isinstance(item, Item)] == [
        ("k1", None),
        ("k2", None),
    ]


def test_rows_are_numbered_over_all_tables(tmp_path: Path) -> None:
    write_table(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.jsonl").write_text('{"article": 3}\n{"article": "x"}\n')
    ids = [item.id for item in read(tmp_path / "a.jsonl", tmp_path / "b.jsonl") if isinstance(item, Item)]
    assert ids == ["0", "1", "3"], "a row that cannot be used has a number too, as in a split"


def test_a_default_id_column_may_lack_and_a_named_one_may_not(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_table(path, ROWS)
    assert [
        item.id for item in read(path, columns=ItemColumns("article", "h", "id")) if isinstance(item, Item)
    ] == [
        "0",
        "1",
    ]
    (bad,) = read(path, columns=ItemColumns("article", "h", "kez", id_is_required=True))
    assert str(bad) == (
        f"{path} has no column 'kez'; its columns are article, highlights, key; did you mean --id-column key?"
    )


def test_each_bad_row_is_one_item_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        b'{"article": "good"}',
        b'{"article": ""}',
        b'{"article": null}',
        b'{"article": 7}',
        b'{"other": "x"}',
        b"{not json",
        b'{"article": "\xff"}',
        b'{"article": "half \\ud83d"}',
        b"[1]",
        b'{"article": "good too"}',
    ]
    path.write_bytes(b"\n".join(lines))
    found = read(path)
    assert [item.article for item in found if isinstance(item, Item)] == ["good", "good too"]
    reasons = [str(item) for item in found if isinstance(item, BadItem)]
    assert len(reasons) == 8
    for number, (reason, word) in enumerate(
        zip(
            reasons,
            ("empty", "null", "int", "no column 'article'", "malformed", "UTF-8", "UTF-8", "not an object"),
            strict=True,
        ),
        start=2,
    ):
        assert reason.startswith(f"{path} row {number} "), reason
        assert word in reason


def test_a_damaged_table_keeps_the_rows_before_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('article\nfirst\n"never closed\n')
    first, bad = read(path)
    assert isinstance(first, Item)
    assert str(bad) == f"{path} opens a quote on line 3 or after that is never closed"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "a.jsonl",
            b'{"text": "x"}\n',
            "has no column 'article'; its columns are text; name one by --column",
        ),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n\n", "has no rows"),
        ("a.csv", b"article\n", "has no rows"),
        ("a.parquet", b"PAR1 not", "is not a readable Parquet file"),
        ("a.json", b'{"article":\n "x"}', "holds one object"),
        ("a.jsonl.gz", b"no archive", "is not a sound .gz file"),
    ],
)
def test_a_table_that_gives_nothing_is_one_bad_item(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    (bad,) = read(tmp_path / name)
    assert isinstance(bad, BadItem)
    assert str(bad).startswith(f"{tmp_path / name} {reason}")


def test_a_folder_is_all_its_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.story", "below/c.md", ".hidden", ".git/config", "below/out.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    write_table(tmp_path / "below" / "d.jsonl", ROWS)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0")
    os.mkfifo(tmp_path / "pipe")
    found = read(tmp_path, left_out={(tmp_path / "below" / "out.jsonl").resolve()})
    assert [item.source for item in found] == [
        f"{tmp_path}/{name}"
        for name in (
            "a.story",
            "b.txt",
            "image.png",
            "pipe",
            "below/c.md",
            "below/d.jsonl row 1",
            "below/d.jsonl row 2",
        )
    ]
    assert [str(item).removeprefix(f"{tmp_path}/") for item in found if isinstance(item, BadItem)] == [
        "image.png is binary, not text",
        "pipe is no regular file",
    ]


def test_what_is_not_there_or_named_twice_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "empty").mkdir()
    found = read(tmp_path / "no.txt", tmp_path / "a.txt", tmp_path / "empty", tmp_path / "a.txt")
    assert [str(item).removeprefix(f"{tmp_path}/") for item in found if isinstance(item, BadItem)] == [
        "no.txt cannot be read: No such file or directory",
        "empty is a folder without a file to read",
        "a.txt is named twice",
    ]
    assert len(found) == 4


def test_a_name_that_cannot_be_shown_is_spelled_out(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9\x1b[2J\n \xc3\xa9.txt"
    Path(os.fsdecode(path)).write_text("words")
    (item,) = read(tmp_path)
    assert item.source == rf"{tmp_path}/caf\xe9\x1b[2J\x0a é.txt"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"An article.", Item("-", "standard input", "An article.")),
        (b"", BadItem("standard input", "is empty")),
        (b"\0\1", BadItem("standard input", "is binary, not text")),
    ],
)
def test_standard_input_is_one_article(
    content: bytes, expected: Item | BadItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read("-") == [expected]


def test_rows_on_standard_input_are_not_taken_for_an_article(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"article": "x"}\n')))
    (bad,) = read("-")
    assert isinstance(bad, BadItem)
    assert "JSON Lines" in bad.reason
