from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from summarizer.config.schema import Columns, DataConfig, RowLimits
from summarizer.config.shared_flags import RowFlags
from summarizer.errors import ConfigError, Issue
from summarizer.evaluation import mlperf
from summarizer.evaluation.rows import ScoredRows, by_flags, data_of, described

OWN = DataConfig(
    source="hub",
    path="someone/news",
    config="1.0",
    revision=None,
    train="train",
    validation="validation",
    test=None,
    columns=Columns(article="article", summary="highlights", id="id"),
    rows=RowLimits(train=None, validation=8, test=None),
    rows_seed=3,
    streaming=False,
    shuffle_buffer_rows=1,
    max_bad_rows=0,
    processes=1,
)


GPTJ = mlperf.TASKS["mlperf-gptj"]


def news(path: Path, count: int, **more: str) -> str:
    rows = [
        {"id": f"r{n}", "article": f"  Article {n} stays unstripped.", "highlights": f"Summary {n}."} | more
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_runs_own_rows_keep_their_limit_unless_another_is_named() -> None:
    assert data_of(OWN, "validation", RowFlags()) == OWN
    assert data_of(OWN, "validation", RowFlags(rows=20)).rows.validation == 20
    lifted = data_of(OWN, "validation", RowFlags(rows="all"))
    assert lifted.rows.validation is None
    assert lifted.rows_seed == OWN.rows_seed, "or a smaller draw would be no start of a larger one"
    assert described(OWN, "validation") == "someone/news 1.0"


def test_files_take_the_place_of_all_that_the_run_names(tmp_path: Path) -> None:
    file = news(tmp_path / "a.jsonl", 2)
    found = data_of(OWN, "test", RowFlags(data=(file,), summary_column="abstract", max_bad_rows=1))
    assert (found.source, found.path, found.test, found.rows.test) == ("files", None, [file], None)
    assert found.rows_seed is None
    assert found.max_bad_rows == 1
    assert found.columns == Columns(article="article", summary="abstract", id="id")
    assert described(found, "test") == file


def test_files_without_the_runs_id_column_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"article": "One.", "highlights": "Two."}\n')
    assert data_of(OWN, "test", RowFlags(data=(str(path),))).columns.id is None
    typed = RowFlags(data=(str(path),), id_column="id")
    assert data_of(OWN, "test", typed).columns.id == "id", "what was typed is missed aloud"
    with_ids = news(tmp_path / "b.jsonl", 1)
    assert data_of(OWN, "test", RowFlags(data=(with_ids,))).columns.id == "id"


def test_mlperfs_rows_from_files_are_whole_and_taken_on_trust(tmp_path: Path) -> None:
    rows = mlperf.task_rows(
        GPTJ, RowFlags(data=(news(tmp_path / "a.jsonl", 5),), rows=3), "EleutherAI/gpt-j-6b"
    )
    assert rows.ids == ["r0", "r1", "r2"]
    assert rows.articles[1] == "  Article 1 stays unstripped."
    assert (rows.split, rows.encoded) == (mlperf.SPLIT, None)
    assert "a.jsonl" in rows.data
    assert any("taken on trust" in note for note in rows.notes)
    fewer = mlperf.task_rows(
        GPTJ, RowFlags(data=(news(tmp_path / "a.jsonl", 5),), rows=7), "EleutherAI/gpt-j-6b"
    )
    assert "7 rows were asked for, but there are only 5" in fewer.notes


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"column": "body"}, "--column: no column 'body' in a.jsonl"),
        ({"summary_column": "highlight"}, "--summary-column: no column 'highlight'"),
        ({"data": ("nowhere.jsonl",)}, "--data: no such file: nowhere.jsonl"),
    ],
)
def test_mistakes_in_files_are_named_by_their_flags(typed: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = news(tmp_path / "a.jsonl", 2)
    with pytest.raises(ConfigError, match=said):
        mlperf.task_rows(GPTJ, RowFlags(**({"data": (file,)} | typed)), "EleutherAI/gpt-j-6b")


def test_a_mistake_in_rows_is_said_under_the_flag_for_its_key_with_the_commands_own_advice() -> None:
    error = ConfigError(
        [
            Issue("data.max_bad_rows", "2 unusable rows", "mend them, or skip them with data.max_bad_rows=2"),
            Issue("data.columns.id", "no column 'key'", "null numbers the rows"),
            Issue("data.test", "no such file: x.jsonl"),
            Issue("prompt.max_tokens", "too few", "take more"),
        ]
    )
    of_the_run = by_flags(error, RowFlags(), "other rows")
    assert [str(issue) for issue in of_the_run.issues] == [
        "--max-bad-rows: 2 unusable rows; --data FILE names other rows",
        "--id-column: no column 'key'; --data FILE names other rows",
        "data.test: no such file: x.jsonl; --data FILE names other rows",
        "prompt.max_tokens: too few; take more",
    ]
    of_files = by_flags(error, RowFlags(data=("x.jsonl",)), "other rows")
    assert [str(issue) for issue in of_files.issues] == [
        "--max-bad-rows: 2 unusable rows",
        "--id-column: no column 'key'",
        "--data: no such file: x.jsonl",
        "prompt.max_tokens: too few; take more",
    ]


def test_unusable_rows_are_refused_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    file = news(path, 2)
    path.write_text(path.read_text() + '{"id": "empty", "article": " ", "highlights": "x"}\n')
    with pytest.raises(ConfigError, match=r"--max-bad-rows: 1 unusable rows.*empty"):
        mlperf.task_rows(GPTJ, RowFlags(data=(file,)), "EleutherAI/gpt-j-6b")
    assert mlperf.task_rows(GPTJ, RowFlags(data=(file,), max_bad_rows=1), "EleutherAI/gpt-j-6b").ids == [
        "r0",
        "r1",
    ]


def test_the_digest_changes_with_every_text() -> None:
    texts = [["a", "b"], ["one", "two"], ["1", "2"]]
    digests = {ScoredRows("d", "s", *texts).texts_sha256}
    for part in range(3):
        changed = [list(values) for values in texts]
        changed[part][1] += "."
        digests.add(ScoredRows("d", "s", *changed).texts_sha256)
    assert len(digests) == 4
