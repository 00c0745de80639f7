from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_examples import example_rows

from summarizer.config.schema import Columns, DataConfig
from summarizer.data.files import READERS, check_data_files, find_files, read_files
from summarizer.data.rows import BadRow
from summarizer.errors import ConfigError

pytestmark = pytest.mark.versions

COLUMNS = Columns(article="article", summary="highlights", id="id")
AWKWARD = [
    {
        "id": "1",
        "article": 'He said "no", twice.\nThen, a line.',
        "highlights": "Naïve café — 東京\u2028end.",
    },
    {"id": "2", "article": "x" * 200_000, "highlights": "Longer than the csv module's own limit."},
    {"id": "3", "article": "Comma, semicolon; tab\t.", "highlights": "One.\nTwo."},
]


def write(path: Path, rows: list[dict[str, str]], bom: bool = False) -> Path:
    suffix = [part for part in path.suffixes if part != ".gz"][-1]
    plain = path.with_name("plain" + suffix)
    encoding = "utf-8-sig" if bom else "utf-8"
    if suffix == ".jsonl":
        plain.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding=encoding
        )
    elif suffix == ".json":
        plain.write_text(json.dumps(rows, indent=1), encoding=encoding)
    elif suffix in (".csv", ".tsv"):
        with plain.open("w", encoding=encoding, newline="") as file:
            separator = "\t" if suffix == ".tsv" else ","
            writer = csv.DictWriter(file, ["id", "article", "highlights"], delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".xlsx":
        book = openpyxl.Workbook()
        book.active.append(["id", "article", None, "highlights"])
        for row in rows:
            book.active.append([row["id"], row["article"], "a column without a name", row["highlights"]])
        book.save(plain)
    else:
        pq.write_table(pa.Table.from_pylist([row | {"unused": 1} for row in rows]), plain)
    content = plain.read_bytes()
    plain.unlink()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(*paths: Path) -> list[Any]:
    return list(read_files(paths, COLUMNS))


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    names = [f"rows{suffix}{gz}" for suffix in READERS for gz in ("", ".gz")]
    assert len(names) == 12
    for name in names:
        # A cell of Excel holds no more than 32,767 characters.
        rows = [row | {"article": row["article"][:30_000]} for row in AWKWARD] if ".xlsx" in name else AWKWARD
        path = write(tmp_path / name, rows)
        assert read(path) == [(f"{name} row {number}", row) for number, row in enumerate(rows, start=1)]


@pytest.mark.parametrize("name", ["b.jsonl", "b.json", "b.csv", "b.csv.gz"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, AWKWARD, bom=True)
    assert [row[1] for row in read(path)] == AWKWARD


def test_json_lines_under_json(tmp_path: Path) -> None:
    path = tmp_path / "lines.json"
    path.write_text("\n".join(json.dumps(row) for row in AWKWARD))
    assert [row[1] for row in read(path)] == AWKWARD


def test_bad_lines_are_named_and_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    good = json.dumps(AWKWARD[0]).encode()
    lines = [good, b"{oops", b"", b'{"id": "\xff"}', b"[1]", b"[" * 100_000, b"9" * 5000, good + b"\r", good]
    path.write_bytes(b"\n".join(lines))
    rows = read(path)
    assert [row.where for row in rows if isinstance(row, BadRow)] == [
        f"x.jsonl row {n}" for n in (2, 4, 5, 6, 7)
    ]
    reasons = [row.reason for row in rows if isinstance(row, BadRow)]
    assert reasons[0].startswith("malformed JSON")
    assert reasons[1].startswith("not valid UTF-8")
    assert reasons[2] == "not an object but list"
    assert [row[0] for row in rows if not isinstance(row, BadRow)] == [f"x.jsonl row {n}" for n in (1, 8, 9)]


def test_bad_records_of_a_csv_are_named_and_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(
        b'id,article,highlights\n1,a,b\n2,a\n3,"a\nb",c\n\n4,\xff,c\n5,"a"b,c\n6,a,b,c\n7,a,caf\xc3\xa9\n'
    )
    rows = read(path)
    assert [(row.where, row.reason.split(":")[0]) for row in rows if isinstance(row, BadRow)] == [
        ("x.csv row 2", "2 fields under a header of 3"),
        ("x.csv row 4", "not valid UTF-8"),
        ("x.csv row 5", "malformed CSV near line 8"),
        ("x.csv row 6", "4 fields under a header of 3"),
    ]
    assert [row[1]["id"] for row in rows if not isinstance(row, BadRow)] == ["1", "3", "7"]
    assert rows[-1][1]["highlights"] == "café"


def test_badly_encoded_parquet_rows_are_named(tmp_path: Path) -> None:
    raw = pa.array([b"ok", b"\xff\xfe", b"fine"])
    texts = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    ids = pa.array(["1", "2", "3"])
    pq.write_table(pa.table({"id": ids, "article": texts, "highlights": ids}), tmp_path / "x.parquet")
    rows = read(tmp_path / "x.parquet")
    assert rows[1] == BadRow("x.parquet row 2", "not valid UTF-8")
    assert [rows[0][1]["article"], rows[2][1]["article"]] == ["ok", "fine"]


def damage_cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def damage_flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(255 - byte for byte in content[middle : middle + 64])
        + content[middle + 64 :]
    )


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("x.jsonl.gz", damage_cut),
        ("x.csv.gz", damage_cut),
        ("x.json.gz", damage_cut),
        ("x.parquet.gz", damage_cut),
        ("x.jsonl.gz", damage_flip),
        ("x.parquet", damage_cut),
        ("x.parquet", lambda content: b"nonsense"),
        ("x.csv.gz", lambda content: b"id,article,highlights\n"),
        ("x.json", damage_cut),
        ("x.json", lambda content: b'{"data":\n [1]}'),
        ("x.csv", lambda content: b'id,article,highlights\n1,"a,b\n2,a,b\n'),
        ("x.csv", lambda content: b'"id"x,article,highlights\n1,a,b\n'),
        ("x.csv", lambda content: b'"id,article,highlights\n1,a,b\n'),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / name, example_rows(300))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match=str(path)):
        read(path)


def test_globs_lists_and_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", "z.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, AWKWARD)
    every = find_files("data.train", [str(tmp_path / "z.csv"), str(tmp_path / "**" / "*.jsonl")])
    assert [path.name for path in every] == ["z.csv", "a.jsonl", "b.jsonl", "c.jsonl"]
    assert find_files("data.train", "embedded:sample/train.jsonl")[0].is_file()


def test_a_file_under_two_spellings_is_named_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", AWKWARD)
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.jsonl").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for other in ("./a.jsonl", "deep/../a.jsonl", str(path), "b.jsonl"):
        with pytest.raises(ConfigError, match="named twice"):
            find_files("data.train", ["a.jsonl", other])


def test_a_path_with_brackets_is_a_path_first(tmp_path: Path) -> None:
    path = write(tmp_path / "rows[1].jsonl", AWKWARD)
    assert find_files("data.train", str(path)) == [path]


def test_every_mistake_in_paths_at_once(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", AWKWARD)
    (tmp_path / "empty.csv").touch()
    (tmp_path / "notes.txt").write_text("x")
    patterns = [
        str(tmp_path / name)
        for name in ("trian.jsonl", "*.parquet", "notes.txt", "empty.csv", "", "train.jsonl", "train*.jsonl")
    ]
    with pytest.raises(ConfigError) as caught:
        find_files("data.test", patterns)
    messages = [str(issue) for issue in caught.value.issues]
    expected = [
        "did you mean 'train.jsonl'?",
        "no file matches",
        "valid suffixes: .jsonl, .json, .csv, .tsv, .parquet, .xlsx, each also with .gz",
        "empty.csv is empty",
        "is a folder",
        "named twice",
    ]
    assert len(messages) == len(expected)
    for message, part in zip(messages, expected, strict=True):
        assert message.startswith("data.test: ")
        assert part in message


def test_the_cheap_check_covers_each_split(data_spec: Callable[..., DataConfig], tmp_path: Path) -> None:
    good = str(write(tmp_path / "ok.jsonl", AWKWARD))
    assert check_data_files(data_spec(good)) == []
    spec = data_spec("/nowhere/x.jsonl", validation=good, test=["/nowhere/y.csv", good])
    assert [issue.key for issue in check_data_files(spec)] == ["data.train", "data.test"]
    hub = data_spec("train", source="hub", path="a/b", validation=["x", "y"])
    assert [issue.key for issue in check_data_files(hub)] == ["data.validation"]


def test_the_cheap_check_loads_no_heavy_library() -> None:
    import subprocess
    import sys

    heavy = {"torch", "datasets", "pyarrow", "transformers"}
    code = f"import sys, summarizer.data.files; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
