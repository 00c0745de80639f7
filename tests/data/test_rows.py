from __future__ import annotations

import re
import time

import pytest

from summarizer.config.schema import Columns
from summarizer.data.rows import BadRow, Row, check_row, require_columns
from summarizer.errors import ConfigError

COLUMNS = Columns(article="article", summary="highlights", id="id")
GOOD = {"id": "a1", "article": "Some text.", "highlights": "Text."}
CONTROL = frozenset({"<|endoftext|>", "<|extratoken_1|>", "[X]"})


def test_a_good_row() -> None:
    assert check_row(GOOD, COLUMNS, "f row 1", 0, CONTROL) == Row("a1", "Some text.", "Text.")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"article": None}, "article is null"),
        ({"article": ""}, "article is empty"),
        ({"article": " \n\t\u00a0"}, "article is empty"),
        ({"article": 3}, "article is not text but int"),
        ({"article": b"x"}, "article is not text but bytes"),
        ({"highlights": ["One.", "Two."]}, "summary (column 'highlights') is not text but list"),
        ({"highlights": None}, "summary (column 'highlights') is null"),
        ({"article": "a <|endoftext|> b"}, "article spells out the control token <|endoftext|>"),
        ({"highlights": "[X]"}, "summary (column 'highlights') spells out the control token [X]"),
        ({"article": "half a pair \ud83d"}, "article is not valid UTF-8"),
        ({"id": "\udcff"}, "the id is not valid UTF-8"),
        ({"id": None}, "column 'id' is missing"),
        ({"id": " "}, "column 'id' is missing"),
        ({"id": 1.5}, "column 'id' is missing"),
        ({"id": True}, "column 'id' is missing"),
    ],
)
def test_each_way_to_be_bad(change: dict[str, object], reason: str) -> None:
    bad = check_row(GOOD | change, COLUMNS, "f row 1", 0, CONTROL)
    assert isinstance(bad, BadRow)
    assert bad.reason.startswith(reason)
    assert bad.where.startswith("f row 1")
    str(bad).encode()  # it goes to a log


@pytest.mark.parametrize("column", ["article", "highlights"])
def test_a_missing_column(column: str) -> None:
    raw = {name: value for name, value in GOOD.items() if name != column}
    bad = check_row(raw, COLUMNS, "f row 9", 0, CONTROL)
    assert isinstance(bad, BadRow)
    assert bad.where == "f row 9 (id a1)"
    assert bad.reason.endswith("is missing")


def test_ids_are_numbers_or_texts_or_the_rows_own_number() -> None:
    assert check_row(GOOD | {"id": 7}, COLUMNS, "w", 0, CONTROL) == Row("7", "Some text.", "Text.")
    unnumbered = COLUMNS.model_copy(update={"id": None})
    assert check_row(GOOD, unnumbered, "w", 41, CONTROL) == Row("41", "Some text.", "Text.")


def test_thousands_of_control_tokens_cost_little() -> None:
    control = frozenset(f"<unused{number}>" for number in range(6_000))
    raw = GOOD | {"article": "An ordinary sentence without any. " * 120}
    start_s = time.perf_counter()
    for _ in range(200):
        assert isinstance(check_row(raw, COLUMNS, "w", 0, control), Row)
    assert time.perf_counter() - start_s < 0.5  # one search for each token takes 3 ms a row


def test_a_wrong_column_name_is_one_error_with_the_nearest_name() -> None:
    rows = [("f.csv row 1", {"id": 1, "article": "x", "highlights": "y"})] * 3
    wrong = Columns(article="artical", summary="highlights", id="guid")
    with pytest.raises(ConfigError) as caught:
        require_columns(rows, wrong)
    assert [issue.key for issue in caught.value.issues] == ["data.columns.article", "data.columns.id"]
    assert re.search(
        r"no column 'artical' in f\.csv; its columns are id, article, highlights; did you mean 'article'\?",
        str(caught.value),
    )
    assert "null numbers the rows" in str(caught.value)


def test_a_column_that_one_row_has_is_no_wrong_name() -> None:
    rows = [("f row 1", {"id": "1"}), BadRow("f row 2", "x"), ("f row 3", GOOD)]
    assert list(require_columns(rows, COLUMNS)) == rows


def test_unreadable_rows_alone_say_nothing_about_columns() -> None:
    rows = [BadRow("f row 1", "malformed JSON")]
    assert list(require_columns(rows, COLUMNS)) == rows
