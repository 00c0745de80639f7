"""Semicolons, tabs and pipes, Excel workbooks and saved data sets: read as they are meant, and within bounds."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import openpyxl
import pytest
from composing import composed, mistakes
from data_examples import example_rows

from summarizer.config.schema import Columns, DataConfig
from summarizer.data import excel, files
from summarizer.data.articles import BadItem, Item, ItemColumns, read_items
from summarizer.data.files import check_columns, file_notes, find_files, read_files
from summarizer.data.prompt import Prompt
from summarizer.data.rows import BadRow
from summarizer.data.splits import build_split
from summarizer.errors import ConfigError
from summarizer.runs.preflight import preflight

COLUMNS = Columns(article="article", summary="highlights", id="id")
SHEET = "xl/worksheets/sheet1.xml"


# ---- separators --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "separator", "note"),
    [
        ("x.csv", ",", None),
        ("x.csv", ";", "x.csv: fields are separated by semicolons"),
        ("x.csv", "\t", "x.csv: fields are separated by tabs"),
        ("x.csv", "|", "x.csv: fields are separated by pipes"),
        ("x.tsv", "\t", None),
        ("x.tsv", ";", "x.tsv: fields are separated by semicolons"),
    ],
)
def test_what_separates_fields_is_recognized_and_said(
    name: str, separator: str, note: str | None, tmp_path: Path
) -> None:
    rows = [row | {"article": f'{row["article"]}, "x; y"\t|\nz'} for row in example_rows(9)]
    with (tmp_path / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "article", "highlights"], delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    assert [row[1] for row in read_files([tmp_path / name], COLUMNS)] == rows  # type: ignore[index]
    assert list(file_notes([tmp_path / name])) == ([] if note is None else [note])


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        ("id,article,highlights", ","),
        ("article", ","),
        ('article,"highlights; or: a; b; c; d"', ","),
        ("body;abstract", ";"),
        ("text;summary, in short", ";"),
        ("a|b,c|d", "|"),
        ("", ","),
    ],
)
def test_known_names_count_for_more_than_many_fields(header: str, separator: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(header + "\n")
    assert files.separator_of(tmp_path / "x.csv") == separator


def test_what_excel_writes_as_csv(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbfsep=;\r\nid;article;highlights\r\n1;a,b;c\r\n")
    assert list(read_files([path], COLUMNS)) == [
        ("x.csv row 1", {"id": "1", "article": "a,b", "highlights": "c"})
    ]
    assert list(file_notes([path])) == ["x.csv: fields are separated by semicolons"]
    for encoding in ("utf-16-le", "utf-16-be"):
        path.write_bytes("\ufeffid,article,highlights\n1,a,b\n".encode(encoding))
        with pytest.raises(ConfigError, match="is UTF-16; save it as UTF-8"):
            list(read_files([path], COLUMNS))


def test_a_share_in_percent_is_told_how_it_is_typed() -> None:
    (line,) = mistakes("data=files", "data.train=embedded:sample/train.jsonl", "data.validation=12.5%")
    assert line == "data.validation: '12.5%' is no path; a share is typed as 0.125"


def test_a_wrong_column_of_a_file_with_semicolons_is_named_by_itself(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("document;summary\na;b\n")
    (issue,) = check_columns(
        "data.train",
        str(tmp_path / "x.csv"),
        COLUMNS.model_copy(update={"id": None, "article": "documnt", "summary": "summary"}),
    )
    assert (
        issue.fact
        == "no column 'documnt' in x.csv; its columns are document, summary; did you mean 'document'?"
    )


# ---- Excel -------------------------------------------------------------------------------------------------------


def workbook(path: Path, rows: list[list[Any]], sheets: int = 1) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for _ in range(sheets - 1):
        book.create_sheet()
    book.save(path)
    return path


def test_a_workbook_as_people_keep_them(tmp_path: Path) -> None:
    rows = [
        [],
        ["id", " article", None, "highlights", 7],
        [1, "A text.", "x", "It.", 2.5],
        [None] * 5,
        ["b", "B.", None, None, None],
    ]
    path = workbook(tmp_path / "x.xlsx", rows, sheets=2)
    assert list(read_files([path], COLUMNS)) == [
        ("x.xlsx row 1", {"id": 1, "article": "A text.", "highlights": "It.", "7": 2.5}),
        ("x.xlsx row 2", {"id": "b", "article": "B.", "highlights": None, "7": None}),
    ]
    assert list(file_notes([path])) == ["x.xlsx: its first sheet of 2, 'Sheet', is read"]
    assert list(read_files([workbook(tmp_path / "empty.xlsx", [])], COLUMNS)) == []
    with pytest.raises(ConfigError, match="more than one column 'article'"):
        list(
            read_files(
                [workbook(tmp_path / "two.xlsx", [["article", "id", "highlights", "article"]])], COLUMNS
            )
        )


def test_a_text_that_excel_cut_off_is_no_example(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "x.xlsx", [["id", "article", "highlights"], ["1", "a" * 40_000, "b"], ["2", "a", "b"]]
    )
    cut, whole = read_files([path], COLUMNS)
    assert isinstance(cut, BadRow)
    assert "'article' has 32,767 characters, where Excel cuts a text off" in cut.reason
    assert not isinstance(whole, BadRow)


def test_without_its_package_it_is_told_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(tmp_path / "x.xlsx", [["text", "summary"], ["a", "b"]])
    monkeypatch.setattr(files, "can_read_excel", lambda: False)
    (line,) = mistakes("data=files", f"data.train={path}", "data.validation=0.1")
    assert (
        line
        == f"data.train: {path} takes a package that is not installed: pip install 'lora-summarizer[excel]'"
    )
    (tmp_path / "old.xls").write_bytes(b"x")
    (line,) = mistakes("data=files", f"data.train={tmp_path}/old.xls", "data.validation=0.1")
    assert line.endswith("old.xls is of an Excel before 2007; save it as .xlsx or CSV")


def with_part(path: Path, part: str, content: bytes) -> Path:
    """A workbook with one of its parts replaced."""
    sound = io.BytesIO()
    book = openpyxl.Workbook()
    for row in (["id", "article", "highlights"], ["1", "a", "b"]):
        book.active.append(row)
    book.save(sound)
    with zipfile.ZipFile(sound) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as changed:
        for name in archive.namelist():
            changed.writestr(name, content if name == part else archive.read(name))
        if part not in archive.namelist():
            changed.writestr(part, content)
    return path


def sheet(rows: str) -> bytes:
    """A sheet's XML, which says that it is larger than it is."""
    named = zip("ABC", ("id", "article", "highlights"), strict=True)
    header = "".join(f'<c r="{letter}1" t="str"><v>{name}</v></c>' for letter, name in named)
    rows = f'<dimension ref="A1:ZZZ9999999"/><sheetData><row r="1">{header}</row>{rows}</sheetData>'
    return f'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">{rows}</worksheet>'.encode()


def test_workbooks_that_nobody_could_hold_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes kilobytes as a zip archive, and gigabytes or for ever once it is unpacked."""
    monkeypatch.setattr(excel, "LARGEST_WHOLE_BYTES", 8 << 20)
    monkeypatch.setattr(excel, "MOST_TAGS", 100_000)
    laughs = b"<!DOCTYPE x [" + b"".join(
        b'<!ENTITY a%d "%s">' % (level, b"&a%d;" % (level - 1) * 10 if level else b"ha" * 50)
        for level in range(9)
    )
    bombs = {
        "whole": ("xl/media/image1.png", bytes(9 << 20), "unpacks to more than 8 MiB; save it as CSV"),
        "strings": (
            "xl/sharedStrings.xml",
            b"<sst>" + b"<si/>" * 100_001,
            "more than 100,000 tags in xl/sharedStr",
        ),
        "rows": (SHEET, sheet("<row/>" * 100_001), "more than 100,000 tags in xl/worksheets/sheet1.xml"),
        "far row": (
            SHEET,
            sheet('<row r="999999999999"><c t="str"><v>1</v></c></row>'),
            "over 1,000,000 blank lines",
        ),
        "laughs": (SHEET, laughs + b"]><worksheet>&a8;</worksheet>", "is not a readable .xlsx workbook"),
        "broken": (SHEET, b"<worksheet><sheetData><row", "is not a readable .xlsx workbook"),
        "index": (
            SHEET,
            sheet('<row r="2"><c r="A2" t="s"><v>99</v></c></row>'),
            "is not a readable .xlsx workbook",
        ),
    }
    for name, (part, content, said) in bombs.items():
        path = with_part(tmp_path / f"{name}.xlsx", part, content)
        start_s = time.monotonic()
        with pytest.raises(ConfigError, match=said) as caught:
            list(read_files([path], COLUMNS))
        assert str(path) in str(caught.value)
        assert time.monotonic() - start_s < 20, name
    far = with_part(tmp_path / "far.xlsx", SHEET, sheet('<row r="2"><c r="ZZZ2" t="str"><v>1</v></c></row>'))
    assert list(read_files([far], COLUMNS)) == []
    for name, content in {"text": b"article,highlights\n", "cut": far.read_bytes()[:-200]}.items():
        (tmp_path / f"{name}.xlsx").write_bytes(content)
        with pytest.raises(ConfigError, match=r"is not a readable \.xlsx workbook"):
            list(read_files([tmp_path / f"{name}.xlsx"], COLUMNS))


# ---- saved data sets ---------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A data set of two splits that `datasets` saved."""
    splits = {
        name: datasets.Dataset.from_list([row | {"note": 1} for row in example_rows(count)])
        for name, count in (("train", 30), ("dev", 6))
    }
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_the_splits_of_a_saved_data_set(
    saved: Path, data_spec: Callable[..., DataConfig], prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = data_spec(str(saved), validation=str(saved / "dev"))
    train, validation = (build_split(spec, name, prompt) for name in ("train", "validation"))
    assert list(train.rows["id"]) == [row["id"] for row in example_rows(30)]
    assert len(validation) == 6
    assert len(build_split(data_spec(str(saved), validation=5), "validation", prompt)) == 5
    with pytest.raises(ConfigError) as caught:
        find_files("data.validation", str(saved))
    assert str(caught.value) == (
        f"data.validation: {saved} has no split 'validation'; its splits are train, dev; name one: "
        f"data.validation={saved}/dev"
    )
    # Its columns are checked without the library, which takes a second to import.
    with monkeypatch.context() as patched:
        patched.setattr(datasets, "load_from_disk", lambda *_: pytest.fail("it was opened"))
        columns = COLUMNS.model_copy(update={"article": "text"})
        (issue,) = check_columns("data.train", str(saved), columns)
        assert issue.fact == (
            "no column 'text' in train; its columns are id, article, highlights, note; did you mean 'note'?"
        )
        assert preflight(composed("data=files", f"data.train={saved}", "data.validation=0.2"))


def test_no_table_is_checked_by_a_heavy_library(saved: Path, tmp_path: Path) -> None:
    workbook(tmp_path / "x.xlsx", [["text", "summary"], ["a", "b"]])
    (tmp_path / "x.csv").write_text("text;summary\na;b\n")
    code = (
        "import sys\n"
        "from summarizer.config.schema import Columns\n"
        "from summarizer.data.files import check_columns\n"
        "columns = Columns(article=None, summary=None, id=None)\n"
        f"for name in ('x.xlsx', 'x.csv', 'saved'):\n"
        f"    assert check_columns('data.train', {str(tmp_path)!r} + '/' + name, columns) == [], name\n"
        "print({'torch', 'transformers', 'wandb', 'datasets', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_saved_data_set_is_summarized(saved: Path) -> None:
    items = list(read_items([str(saved / "dev")], ItemColumns("article", "highlights", "id")))
    assert [item.id for item in items if isinstance(item, Item)] == [row["id"] for row in example_rows(6)]


def test_a_saved_data_set_that_leads_elsewhere_is_not_opened(saved: Path, tmp_path: Path) -> None:
    def refusal() -> str:
        with pytest.raises(ConfigError) as caught:
            list(read_files(find_files("data.train", str(saved / "train")), COLUMNS))
        return str(caught.value)

    (rows,) = (saved / "train").glob("*.arrow")
    elsewhere = tmp_path / "elsewhere.arrow"
    shutil.move(rows, elsewhere)
    rows.symlink_to(elsewhere)
    assert f"is not opened: {rows.name} in it is a link" in refusal()
    assert isinstance(next(read_items([str(saved / "train")], ItemColumns("article", None, None))), BadItem)
    rows.unlink()
    assert "which is no file in it" in refusal()
    state = json.loads((saved / "train" / "state.json").read_text())
    for name in ("../../elsewhere.arrow", str(elsewhere), "", 3):
        state["_data_files"] = [{"filename": name}]
        (saved / "train" / "state.json").write_text(json.dumps(state))
        assert "which is no file in it" in refusal()
    for text in ("[" * 10_000, "3", "{"):
        (saved / "train" / "state.json").write_text(text)
        assert str(saved / "train") in refusal()
    state["_data_files"] = [{"filename": rows.name}]
    (saved / "train" / "state.json").write_text(json.dumps(state))
    rows.write_bytes(elsewhere.read_bytes()[:500])
    assert "is no data set that can be read" in refusal()
    # Names of splits that lead out of the folder are none of its splits.
    (saved / "dataset_dict.json").write_text(json.dumps({"splits": ["../elsewhere", "dev", 3]}))
    with pytest.raises(ConfigError, match="its splits are dev;"):
        find_files("data.train", str(saved))
