"""Data that could be read in two ways is a mistake, named; and files that nobody could read to their end."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from composing import composed
from data_examples import example_rows

from summarizer.config.schema import Columns, DataConfig
from summarizer.data.files import check_columns, read_files
from summarizer.data.prompt import Prompt
from summarizer.data.readers import LARGEST_ROW_BYTES, MOST_BLANK_LINES
from summarizer.data.rows import BadRow
from summarizer.data.splits import build_split
from summarizer.data.stream import StreamedSplit
from summarizer.errors import ConfigError
from summarizer.runs.preflight import preflight

COLUMNS = Columns(article="article", summary="highlights", id="id")


@pytest.mark.parametrize(
    ("override", "key", "other"),
    [
        ("data.columns.article=highlights", "data.columns.summary", "article"),
        ("data.columns.summary=article", "data.columns.summary", "article"),
        ("data.columns.id=article", "data.columns.id", "article"),
        ("data.columns.id=highlights", "data.columns.id", "summary"),
    ],
)
def test_two_fields_of_one_column(override: str, key: str, other: str) -> None:
    with pytest.raises(ConfigError) as caught:
        preflight(composed("data=sample", override))
    (issue,) = [issue for issue in caught.value.issues if "already" in issue.fact]
    assert issue.key == key
    assert issue.fact.endswith(f"is the column of the {other} already")


def parquet(path: Path, names: list[str]) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array(["x"])] * len(names), names=names), path)


def csv_of(path: Path, names: list[str]) -> None:
    path.write_text(",".join(names) + "\n" + ",".join("x" for _ in names) + "\n")


@pytest.mark.parametrize(("suffix", "write"), [(".csv", csv_of), (".parquet", parquet)])
def test_a_doubled_heading(
    suffix: str,
    write: Callable[[Path, list[str]], None],
    tmp_path: Path,
    data_spec: Callable[..., DataConfig],
) -> None:
    path = tmp_path / f"x{suffix}"
    names = ["id", "article", "highlights"]
    for doubled in names:
        write(path, [*names, doubled])
        with pytest.raises(ConfigError, match=f"more than one column '{doubled}'"):
            list(read_files([path], COLUMNS))
    write(path, [*names, "note", "note"])
    if suffix == ".csv":  # pyarrow reads the three columns alone
        (row,) = read_files([path], COLUMNS)
        assert not isinstance(row, BadRow)


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_a_doubled_key_in_a_row(suffix: str, tmp_path: Path) -> None:
    lines = [
        '{"id": "1", "article": "a", "highlights": "b"}',
        '{"id": "2", "article": "a", "highlights": "b", "article": "c"}',
        '{"id": "3", "article": "a", "highlights": "b", "note": 1, "note": 2, "more": {"article": 1}}',
    ]
    path = tmp_path / f"x{suffix}"
    path.write_text("\n".join(lines) if suffix == ".jsonl" else f"[{','.join(lines)}]")
    rows = list(read_files([path], COLUMNS))
    assert [row for row in rows if isinstance(row, BadRow)] == [
        BadRow(f"x{suffix} row 2", "has the key 'article' more than once")
    ]
    assert len(rows) == 3


def test_rows_of_one_id(
    data_spec: Callable[..., DataConfig], write_jsonl: Callable[..., str], prompt: Prompt
) -> None:
    rows = [
        row | {"id": "same" if number in (1, 3, 4) else row["id"]}
        for number, row in enumerate(example_rows(6))
    ]
    path = write_jsonl(rows)
    with pytest.raises(ConfigError) as caught:
        build_split(data_spec(path), "train", prompt)
    said = str(caught.value)
    assert said.startswith(
        "data.max_bad_rows: 2 unusable rows in data.train, 0 accepted: train.jsonl row 4 (id same)"
    )
    assert said.endswith("or number the rows with data.columns.id=null")
    assert len(build_split(data_spec(path, max_bad_rows=2), "train", prompt)) == 4
    assert len(build_split(data_spec(path, columns={"id": None}), "train", prompt)) == 6
    stream = StreamedSplit(data_spec(path, streaming=True), prompt)
    with pytest.raises(ConfigError, match="an earlier row has this id"):
        next(stream.batches(0, 6, 0, shuffle=False, group_by_length=False))
    # An epoch later every id comes again, and is the same row.
    again = StreamedSplit(data_spec(path, streaming=True, max_bad_rows=2), prompt)
    batches = again.batches(0, 4, 0, shuffle=False, group_by_length=False)
    assert [len(next(batches)) for _ in range(3)] == [4, 4, 4]


def test_wrong_columns_are_found_from_the_first_rows(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {"body": "a", "abstract": "b"}
    files = {
        "x.jsonl": json.dumps(wrong) + "\n" + "{" * 10_000_000,
        "x.json": json.dumps([wrong]),
        "x.csv": "body,abstract\na,b\n" + '"',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(pa.Table.from_pylist([wrong]), tmp_path / "x.parquet")
    found = sorted(tmp_path.iterdir())
    assert len(found) == 7
    numbered = Columns(article="article", summary="abstract", id=None)
    for path in found:
        issues = check_columns("data.train", str(path), numbered)
        assert [issue.key for issue in issues if "columns" in issue.key] in (["data.columns.article"], []), (
            path
        )
        assert issues, path
    assert check_columns("data.train", "/nowhere/x.jsonl", numbered) == []


def test_bombs_are_refused_while_they_are_read(tmp_path: Path) -> None:
    """What takes kilobytes as .gz, and gigabytes or for ever once it is unpacked."""
    long_line = b'{"id": "' + b"a" * (LARGEST_ROW_BYTES + 2) + b'"}\n'
    blank = b"\n" * (MOST_BLANK_LINES + 2)
    header = b"id,article,highlights\n"
    bombs = {
        "line.jsonl.gz": (long_line, "over 16 MiB at line 1"),
        "line.csv.gz": (header + b"1,a,b\n2," + b"a" * (LARGEST_ROW_BYTES + 2), "over 16 MiB at line 3"),
        "record.csv.gz": (header + b'1,"' + b"a b c d\n" * (LARGEST_ROW_BYTES // 7), "over 16 MiB at line "),
        "header.csv.gz": (b"a" * (LARGEST_ROW_BYTES + 2), "over 16 MiB at line 1"),
        "blank.jsonl.gz": (blank, "over 1,000,000 blank lines and 0 rows"),
        "blank.csv.gz": (header + blank, "over 1,000,000 blank lines and 0 rows"),
        "blank.json.gz": (b"\n" * 1000 + blank, "over 1,000,000 blank lines and 0 rows"),
    }
    for name, (content, said) in bombs.items():
        path = tmp_path / name
        path.write_bytes(gzip.compress(content, 1))
        assert path.stat().st_size < 300_000
        start_s = time.monotonic()
        with pytest.raises(ConfigError, match=said) as caught:
            list(read_files([path], COLUMNS))
        assert str(path) in str(caught.value)
        assert time.monotonic() - start_s < 30
    # Some blank lines are nobody's mistake.
    fine = tmp_path / "fine.jsonl"
    fine.write_text("\n\n".join(json.dumps(row) for row in example_rows(50)) + "\n" * 1000)
    assert len(list(read_files([fine], COLUMNS))) == 50


def test_a_file_of_bad_rows_alone_is_not_read_to_its_end(
    data_spec: Callable[..., DataConfig], tmp_path: Path, prompt: Prompt
) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b"x\n" * 2_000_000, 1))
    with pytest.raises(ConfigError, match="at least 10,001 unusable rows") as caught:
        build_split(data_spec(str(path)), "train", prompt)
    assert "skip them" not in str(caught.value)
