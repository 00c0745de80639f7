"""Columns that are recognized by their names, and the mistakes where they cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from composing import composed, mistakes
from data_examples import example_rows

from summarizer.config.schema import Columns, DataConfig
from summarizer.data.articles import BadItem, Item, ItemColumns, read_items
from summarizer.data.columns import recognized, said
from summarizer.data.prompt import Prompt
from summarizer.data.rows import BadRow, Row, check_row
from summarizer.data.splits import build_split
from summarizer.errors import ConfigError

OPEN = Columns(article=None, summary=None, id=None)
TURNS = [
    {"role": "system", "content": "You summarize."},
    {"role": "user", "content": " The article. "},
    {"role": "assistant", "content": "The summary."},
]


@pytest.mark.parametrize(
    ("names", "article", "summary"),
    [
        ("id article highlights", "article", "highlights"),
        ("document summary", "document", "summary"),
        ("text summary topic", "text", "summary"),
        ("id dialogue summary", "dialogue", "summary"),
        ("input output", "input", "output"),
        ("instruction input output", ["instruction", "input"], "output"),
        ("instruction output", "instruction", "output"),
        ("article summary", "article", "summary"),
        ("Text Summary", "Text", "Summary"),
        ("ARTICLE Highlights", "ARTICLE", "Highlights"),
        # The usual name is the one that is meant, whatever else there is.
        ("text article summary highlights messages", "article", "highlights"),
    ],
)
def test_known_names(names: str, article: object, summary: str) -> None:
    found = recognized(OPEN, names.split(), "x.csv")
    assert (found.article, found.summary, found.messages) == (article, summary, None)


@pytest.mark.parametrize(
    ("names", "given", "said"),
    [
        (
            "body abstract",
            {},
            [
                "data.columns.article: which column of x.csv holds the articles? its columns are body, abstract; "
                "say which: data.columns.article=NAME",
                "data.columns.summary: which column of x.csv holds the summaries? its columns are body, abstract; "
                "say which: data.columns.summary=NAME",
            ],
        ),
        (
            "document text summary",
            {},
            [
                "data.columns.article: 'document' and 'text' of x.csv could both be the articles; its columns are "
                "document, text, summary; say which: data.columns.article=document"
            ],
        ),
        (
            "text Text summary output",
            {"article": "text"},
            [
                "data.columns.summary: 'summary' and 'output' of x.csv could both be the summaries; its columns "
                "are text, Text, summary, output; say which: data.columns.summary=summary"
            ],
        ),
        (
            "text summary messages",
            {},
            [
                "data.columns.article: 'text' and 'messages' of x.csv could both be the articles; its columns are "
                "text, summary, messages; say which: data.columns.article=text"
            ],
        ),
    ],
)
def test_what_cannot_be_told(names: str, given: dict[str, str], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        recognized(OPEN.model_copy(update=given), names.split(), "x.csv")
    assert [str(issue) for issue in caught.value.issues] == said


def test_what_the_config_names_is_taken_and_never_guessed_twice() -> None:
    named = Columns(article="article", summary="highlights", id=None)
    assert recognized(named, ["text", "summary"], "x.csv") == named
    half = recognized(OPEN.model_copy(update={"summary": "text"}), ["text", "document"], "x.csv")
    assert (half.article, half.summary) == ("document", "text")
    numbered = recognized(OPEN.model_copy(update={"id": "text"}), ["text", "document", "summary"], "x.csv")
    assert (numbered.article, numbered.id) == ("document", "text")


def test_what_is_recognized_is_said_in_one_line() -> None:
    assert said(recognized(OPEN, ["article", "highlights"], "x"), OPEN) is None
    line = said(recognized(OPEN, ["instruction", "input", "output"], "x"), OPEN)
    assert line is not None
    assert line.startswith(
        "columns: the article is 'instruction' and 'input', the summary is 'output'; others"
    )
    turns = said(recognized(OPEN, ["messages"], "x"), OPEN)
    assert turns is not None
    assert "system turns are left out" in turns
    assert "\n" not in line + turns


# ---- rows --------------------------------------------------------------------------------------------------------


def row_of(raw: dict[str, object], **columns: object) -> Row | BadRow:
    return check_row(raw, OPEN.model_copy(update=columns), "f row 1", 0, frozenset())


def test_texts_of_several_columns_are_joined() -> None:
    columns = {"article": ["instruction", "input"], "summary": "output"}
    raw = {"instruction": "Summarize. ", "input": "A text.", "output": "It."}
    assert row_of(raw, **columns) == Row("0", "Summarize.\n\nA text.", "It.")
    assert row_of(raw | {"input": None}, **columns) == Row("0", "Summarize.", "It.")
    bad = row_of(raw | {"input": 3}, **columns)
    assert bad == BadRow("f row 1", "article (columns 'instruction', 'input') is not text but int")
    assert str(row_of({"output": "x"}, **columns)).endswith("(columns 'instruction', 'input') is missing")


def test_chat_turns() -> None:
    assert row_of({"messages": TURNS}, messages="messages") == Row("0", "The article.", "The summary.")
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]},
        TURNS[2],
    ]
    assert row_of({"messages": parts}, messages="messages") == Row("0", "One.\nTwo.", "The summary.")
    longer = [*TURNS, {"role": "user", "content": "Shorter!"}, {"role": "assistant", "content": "It."}]
    assert row_of({"messages": longer}, messages="messages") == Row("0", "The article.\n\nShorter!", "It.")


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ("text", "article (column 'messages') is not a list of chat turns"),
        (["text"], "article (column 'messages') is not a list of chat turns"),
        (TURNS[:2], "summary (column 'messages') has no turn of the assistant"),
        (TURNS[2:], "article (column 'messages') has no turn of the user"),
        (
            [*TURNS, {"role": "tool", "content": "x"}],
            "article (column 'messages') has a turn of 'tool', which is none",
        ),
        (
            [{"role": "user", "content": [{"type": "image"}]}, TURNS[2]],
            "article (column 'messages') has a turn whose",
        ),
        (
            [{"role": "user", "content": None}, TURNS[2]],
            "article (column 'messages') has a turn whose content is not",
        ),
        ([{"role": "user", "content": " "}, TURNS[2]], "article (column 'messages') is empty"),
    ],
)
def test_turns_that_are_no_example(turns: object, reason: str) -> None:
    bad = row_of({"messages": turns}, messages="messages")
    assert isinstance(bad, BadRow)
    assert bad.reason.startswith(reason)


def test_a_split_of_turns(
    data_spec: Callable[..., DataConfig], write_jsonl: Callable[..., str], prompt: Prompt
) -> None:
    path = write_jsonl([{"messages": TURNS}, {"messages": TURNS[:2]}])
    columns = {"article": None, "summary": None, "id": None}
    split = build_split(data_spec(path, columns=columns, max_bad_rows=1), "train", prompt)
    assert split.rows["article"][0] == "The article."
    assert len(split.report.bad) == 1
    assert [note.partition(":")[0] for note in split.notes] == ["columns"]


# ---- before anything is imported ---------------------------------------------------------------------------------


def test_the_check_recognizes_columns_of_a_config(tmp_path: Path) -> None:
    rows = example_rows(5)
    files = {
        "good.jsonl": [{"text": row["article"], "summary": row["highlights"]} for row in rows],
        "both.jsonl": [{"text": "a", "document": "b", "summary": "c"}],
        "other.jsonl": [{"document": row["article"], "summary": row["highlights"]} for row in rows],
    }
    for name, content in files.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in content))

    def overrides(train: str, *more: str) -> list[str]:
        return ["data=files", f"data.train={tmp_path}/{train}", "data.validation=0.2", *more]

    from summarizer.runs.preflight import preflight

    assert preflight(composed(*overrides("good.jsonl"))).data.columns.article is None
    (line,) = mistakes(*overrides("both.jsonl"))
    assert line.endswith("say which: data.columns.article=text")
    assert preflight(composed(*overrides("both.jsonl", "data.columns.article=text")))
    # The files of one split have the same columns; those of another split may have others.
    assert preflight(composed(*overrides("good.jsonl", f"data.validation={tmp_path}/other.jsonl")))
    (line,) = mistakes(*overrides("good.jsonl", f"data.train=[{tmp_path}/good.jsonl,{tmp_path}/other.jsonl]"))
    assert line.startswith(
        "data.columns.article: no column 'text' in other.jsonl; its columns are document, summary"
    )
    (line,) = mistakes(
        *overrides("good.jsonl", "data.columns.messages=turns", "data.columns.summary=summary")
    )[:1]
    assert line.startswith("data.columns.summary: has no place beside data.columns.messages")
    (line,) = mistakes(
        *overrides("good.jsonl", "data.columns.article=[text,summary]", "data.columns.summary=text")
    )
    assert line == "data.columns.summary: 'text' is the column of the article already"


def test_tables_to_summarize_are_recognized_too(tmp_path: Path) -> None:
    columns = ItemColumns(article=None, reference=None, id=None)

    def items(rows: list[dict[str, object]]) -> list[Item | BadItem]:
        path = tmp_path / "x.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return list(read_items([str(path)], columns))

    (item,) = items([{"text": "A text.", "summary": "Its summary."}])
    assert isinstance(item, Item)
    assert (item.article, item.reference) == ("A text.", "Its summary.")
    (item,) = items([{"document": "A text."}])
    assert isinstance(item, Item)
    assert (item.article, item.reference) == ("A text.", None)
    (item,) = items([{"messages": TURNS[:2]}])
    assert isinstance(item, Item)
    assert (item.article, item.reference) == ("The article.", None)
    (bad,) = items([{"body": "A text."}])
    assert str(bad).endswith(
        "is not read: which column of x.jsonl holds the articles? its columns are body; name it by --column"
    )


def test_a_column_that_another_field_has_is_named() -> None:
    given = Columns(article="highlights", summary=None, id=None, messages=None)
    with pytest.raises(ConfigError) as refused:
        recognized(given, ["article", "highlights"], "x.csv")
    (issue,) = refused.value.issues
    assert issue.key == "data.columns.summary"
    assert str(issue.fact).endswith("are article, highlights, and 'highlights' is taken by another field")
