"""The file of --output: appended to, continued, refused, put in order."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from summarizer.data.articles import Item
from summarizer.errors import ConfigError
from summarizer.generation.summary_file import (
    Summary,
    lock_path,
    open_summaries,
    output_issues,
    settings_path,
)

SETTINGS = {"adapter": "a1", "--beams": 1}
ITEMS = [
    Item(str(number), f"row {number}", f"article {number}", f"ref\u2028 {number}") for number in range(5)
]


def written(item: Item) -> Summary:
    return Summary(item, f"summary “{item.id}”\nline\u2028two", 10, 3 if item.id == "2" else 0)


def fill(path: Path, *, until: int | None = None, items: list[Item] = ITEMS) -> list[str]:
    """What was still to do; as many of them done, last first."""
    with open_summaries(path, items, SETTINGS) as file:
        left = [item.id for item in file.left]
        for item in list(reversed(file.left))[:until]:
            file.append(written(item))
        if until is None:
            file.put_in_order()
    return left


def test_lines_are_in_order_and_hold_what_predictions_hold(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"
    assert fill(path) == ["0", "1", "2", "3", "4"]
    rows = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    assert [row["id"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert rows[2] == {
        "id": "2",
        "source": "row 2",
        "prediction": "summary “2”\nline\u2028two",
        "reference": "ref\u2028 2",
        "article_tokens": 10,
        "cut_tokens": 3,
        "article_digest": ITEMS[2].digest,
    }
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["out.jsonl", "out.jsonl.settings.json"]
    assert "reference" not in json.loads(written(Item("7", "x", "y")).line())


@pytest.mark.parametrize(
    "torn", [b"", b'{"id": "1", "pred', b"\xe2\x80", written(ITEMS[0]).line().encode()[:-1]]
)
def test_it_goes_on_and_ends_as_if_never_stopped(torn: bytes, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    fill(whole)
    fill(stopped, until=2)
    with stopped.open("ab") as file:
        file.write(torn)
    assert fill(stopped, until=1) == ["0", "1", "2"]
    assert fill(stopped) == ["0", "1"]
    assert stopped.read_bytes() == whole.read_bytes()
    before = stopped.stat()
    assert fill(stopped) == []
    assert stopped.stat().st_mtime_ns == before.st_mtime_ns


def test_items_may_join_and_twins_are_each_written(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    fill(path, items=ITEMS[:2])
    grown = [ITEMS[3], *ITEMS[:2], ITEMS[0]]
    assert fill(path, items=grown) == ["3", "0"]
    assert [json.loads(line)["id"] for line in path.read_bytes().splitlines()] == ["3", "0", "1", "0"]


def test_a_kept_summary_says_what_its_item_is_now(tmp_path: Path) -> None:
    path, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    fill(path)
    now = [Item(item.id, f"moved {item.id}", item.article, f"other {item.id}") for item in ITEMS]
    assert fill(path, items=now) == [], "neither decides on a summary's words"
    fill(whole, items=now)
    assert path.read_bytes() == whole.read_bytes()
    bare = [Item(item.id, item.source, item.article) for item in ITEMS]
    fill(path, items=bare)
    assert [json.loads(line).get("reference") for line in path.read_bytes().splitlines()] == [None] * 5


def test_other_settings_or_articles_are_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    fill(path, until=3)
    with path.open("ab") as file:
        file.write(b"torn")
    before = path.read_bytes(), settings_path(path).read_bytes()
    with (
        pytest.raises(ConfigError) as refused,
        open_summaries(path, ITEMS, {"adapter": "a2", "--beams": 4, "--seed": 1}),
    ):
        pass
    assert [issue.message.partition(": ")[2] for issue in refused.value.issues] == [
        "the adapter was another one; name another file",
        "--beams was 1, now it is 4; name another file",
        "--seed was null, now it is 1; name another file",
    ]
    edited = [*ITEMS[:4], Item("4", "row 4", "another article")]
    with (
        pytest.raises(ConfigError, match=r"holds 1 summaries of articles .* id '4'"),
        open_summaries(path, edited, SETTINGS),
    ):
        pass
    assert (path.read_bytes(), settings_path(path).read_bytes()) == before
    assert not lock_path(path).exists()


@pytest.mark.parametrize(
    ("content", "beside", "reason"),
    [
        (b'{"id": "1"}\n', None, "there is no out.jsonl.settings.json beside it"),
        (b"notes without an end", None, "there is no out.jsonl.settings.json beside it"),
        (b'{"id": "1"}\n', "{}", "its line 1 is no summary"),
        (b'{"id": "1", "article_digest": "a", "cut_tokens": "x"}\n', "{}", "its line 1 is no summary"),
        (b"\xff\n", "{}", "it is not UTF-8 text"),
        (b'{"id": "1"}\n', "[", "cannot be read"),
        (b'{"id": "1"}\n', "[]", "none of this command's"),
    ],
)
def test_files_of_others_are_left_alone(
    content: bytes, beside: str | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    if beside is not None:
        settings_path(path).write_text(beside)
    with pytest.raises(ConfigError, match=reason), open_summaries(path, ITEMS, {}):
        pass
    assert path.read_bytes() == content


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").touch()
    assert len(fill(tmp_path / "out.jsonl")) == 5


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with (
        open_summaries(path, ITEMS, SETTINGS),
        pytest.raises(ConfigError, match=r"another process is writing .*out\.jsonl now"),
        open_summaries(path, ITEMS, SETTINGS),
    ):
        pass
    assert len(fill(path)) == 5


def test_a_full_disk_is_named_and_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    fill(whole)
    real, room = os.write, [150]

    def full(handle: int, content: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = content[: room[0]]
        room[0] -= len(taken)
        return real(handle, taken)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: .*out\.jsonl"):
        fill(path)
    monkeypatch.undo()
    assert path.stat().st_size == 150
    fill(path)
    assert path.read_bytes() == whole.read_bytes()


def test_only_a_regular_jsonl_file_can_be_written(tmp_path: Path) -> None:
    read = [str(tmp_path / "news.jsonl")]
    (tmp_path / "file").touch()
    (tmp_path / "folder.jsonl").mkdir()
    for name, reason in (
        ("a.csv", "must end in .jsonl"),
        ("-", "must end in"),
        ("folder.jsonl", "no regular file"),
        ("file/below/new.jsonl", "is a file, so that no folder can be made below it"),
        ("below/../news.jsonl", "is one of the files to summarize"),
    ):
        (issue,) = output_issues(tmp_path / name, read)
        assert reason in issue.message
    assert not list(output_issues(tmp_path / "below" / "new.jsonl", read))
