"""One description of a table, drawn at a terminal of any width and written as Markdown."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from summarizer.evaluation.record import Interval
from summarizer.reports.tables import (
    EMPTY,
    Cell,
    Column,
    Table,
    informative,
    markdown_table,
    print_table,
    scored,
)

SCORES = [scored(Interval(14.512, 12.46, 16.84)), scored(Interval(9.0, 8.04, 9.96))]
TABLE = Table(
    [
        Column(
            "run", [Cell("a|b", folder="0"), Cell("two")], [Cell("base model")], numeric=False, folds=True
        ),
        Column("rouge1", SCORES, [scored(Interval(5, 4, 6))]),
        Column("adapter.\ndim", [Cell("2"), Cell("16")], [EMPTY], need=2),
        Column("status", [Cell("completed"), Cell("failed")], [EMPTY], numeric=False, need=1),
        Column("tokens", [Cell("1,000"), Cell("10")], [EMPTY], at_terminals=False),
    ],
    "Which is best?",
    ["bold", ""],
    notes=["rouge1: single words"],
)


def printed(width: int | None) -> list[str]:
    """width: None is a pipe."""
    file = io.StringIO()
    terminal = {"width": width, "force_terminal": True} if width else {}
    print_table(Console(file=file, color_system=None, **terminal), TABLE)  # type: ignore[arg-type]
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_bounds_stand_beside_their_values_where_there_is_room() -> None:
    lines = printed(None)
    assert lines[0] == "Which is best?"
    assert "a|b         14.51 (12.5–16.8)         2  completed" in lines
    assert "base model     5.00 (4.0–6.0)" in lines
    assert lines[-1] == "rouge1: single words"
    assert not any("tokens" in line for line in lines), "Markdown alone has it"
    assert printed(60) == lines, "a terminal that is wide enough"


@pytest.mark.parametrize(("width", "left"), [(45, ""), (34, "adapter.dim"), (22, "adapter.dim, status")])
def test_in_narrow_terminals_bounds_go_below_and_the_least_needed_columns_leave(
    width: int, left: str
) -> None:
    lines = printed(width)
    rule = next(i for i, line in enumerate(lines) if set(line) == {"─"})
    (value,) = (i for i, line in enumerate(lines) if line.startswith("a|b "))
    assert "14.51" in lines[value]
    assert lines[value + 1].split() == ["12.5–16.8"]
    assert len(lines[rule]) <= width
    said = [line for line in lines if line.startswith("No room for: ")]
    assert [line.split(": ")[1].split(".  ")[0].startswith(left) for line in said] == ([True] if left else [])


def test_markdown_has_every_column_in_one_line_each() -> None:
    heading, rule, first, second, beside = markdown_table(TABLE).splitlines()
    assert heading == "| run | rouge1 | adapter.dim | status | tokens |"
    assert rule == "|---|---:|---:|---|---:|"
    assert first == "| **[a\\|b](0/)** | **14.51 (12.5–16.8)** | **2** | **completed** | **1,000** |"
    assert second == "| two | 9.00 (8.0–10.0) | 16 | failed | 10 |"
    assert beside.startswith("| base model | 5.00 (4.0–6.0) |")


def test_columns_that_say_nothing_are_left_out() -> None:
    assert informative([Column("a", [EMPTY, Cell("1")]), Column("b", [EMPTY, EMPTY])]) == [
        Column("a", [EMPTY, Cell("1")])
    ]
