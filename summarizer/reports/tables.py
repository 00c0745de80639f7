"""How all reports are drawn: tables, described once, at a terminal by rich and as Markdown; and lines of text.

Whatever a run, a data set or a model wrote can stand in them: here, and nowhere else, it is made so that it steers
neither a terminal nor Markdown.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from summarizer.console.safe_text import one_line, without_controls
from summarizer.evaluation.record import Interval

NOTHING = "–"
"""What stands in a cell whose value is not known or was not asked for, where an empty one would be misread."""
WIDTH_OF_A_PIPE = 1000
"""Columns, where no terminal says how many there are: as many as a line takes."""
GAP = 2
"""Characters between columns."""
FOLDED = 20
"""The least width in characters of a column whose texts may go on in a further line."""


@dataclass(frozen=True)
class Cell:
    """A value, and what says how sure it is."""

    text: str = ""
    bounds: str = ""
    """The 95 % interval, or a p value: in parentheses behind the value, or below it where there is not room."""
    style: str = ""
    folder: str = ""
    """What the text is a link to in Markdown, relative to the file."""


EMPTY = Cell()
Value = str | int | float | None


@dataclass(frozen=True)
class Column:
    """A column, with a cell for each row of its table."""

    heading: str
    """Lines; Markdown has them in one."""
    cells: Sequence[Cell]
    untrained: Sequence[Cell] = ()
    """Cells below a rule: what the rows are measured by, such as the base model and Lead-3."""
    values: Sequence[Value] = ()
    """The cells as plain values, for programs; None where there is nothing."""
    numeric: bool = True
    """Whether it is aligned to the right."""
    folds: bool = False
    """Whether its texts may go on in a further line."""
    need: int = 0
    """The lower, the sooner it has a place where there is not room for all; 0 always has."""
    at_terminals: bool = True
    """Whether it is drawn at a terminal at all; Markdown has every column."""

    @property
    def name(self) -> str:
        """The heading in one line."""
        return self.heading.replace(".\n", ".").replace("\n", " ")


@dataclass(frozen=True)
class Table:
    """A table before it is drawn."""

    columns: Sequence[Column]
    title: str = ""
    styles: Sequence[str] = ()
    """A style of rich for each row; bold is bold in Markdown too."""
    notes: Sequence[str] = field(default_factory=tuple)
    """What a reader needs to read it."""


def informative(columns: Sequence[Column]) -> list[Column]:
    """The columns that say something of at least one row."""
    return [column for column in columns if any(cell != EMPTY for cell in column.cells)]


def scored(interval: Interval | None, decimals: int = 2) -> Cell:
    """A mean with its interval: `14.51 (12.5–16.8)`; nothing without one."""
    if interval is None:
        return EMPTY
    low, high = (f"{bound:.{decimals - 1}f}" for bound in (interval.low, interval.high))
    return Cell(f"{interval.value:.{decimals}f}", f"{low}–{high}")


def loss_cell(loss: float | None, missing: str = "") -> Cell:
    """A loss in thousandths of a nat."""
    return Cell(missing if loss is None else f"{loss:.3f}")


def whole(number: float | None) -> str:
    """A number without its fraction; nothing where it is not known."""
    return "" if number is None else f"{number:,.0f}"


def print_table(console: Console, table: Table, width: int | None = None) -> None:
    """The title, the table and its notes, as wide as the console or as `width`.

    Bounds stand beside their values where all columns fit so, else below them. Where there is no room for all
    columns, the least needed are left out, and a line says which.
    """
    if width is None:
        width = console.width if console.is_terminal else WIDTH_OF_A_PIPE
    if table.title:
        print_line(console, table.title, "bold")
    columns = [column for column in table.columns if column.at_terminals]
    for below in (False, True):
        chosen = _that_fit(columns, width, below=below)
        if len(chosen) == len(columns):
            break
    before, console.width = console.width, width  # rich draws nothing wider than its console
    console.print(_drawn(table, chosen, below=below))
    console.width = before
    if left := [column.name for column in columns if column not in chosen]:
        print_line(
            console, f"No room for: {', '.join(left)}. A wider terminal, --html or --json has them.", "dim"
        )
    for note in table.notes:
        print_line(console, note, "dim")


def print_line(console: Console, text: str, style: str = "") -> None:
    """A line that is not broken by us: a terminal wraps it, and what is copied from there has no line break."""
    console.print(Text(without_controls(text), style=style), soft_wrap=True)


def print_wrapped(
    console: Console, paragraphs: Iterable[str], width: int, *, indent: int = 0, style: str = ""
) -> None:
    """Paragraphs of lines of at most `width` characters, the lines below each first one indented."""
    for paragraph in paragraphs:
        lines = textwrap.wrap(
            without_controls(paragraph),
            width,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines or [""]:
            print_line(console, line, style)


def markdown_table(table: Table) -> str:
    """All columns, with bounds behind their values."""
    lines = [
        "| " + " | ".join(escaped(column.name) for column in table.columns) + " |",
        "|" + "".join("---:|" if column.numeric else "---|" for column in table.columns),
    ]
    count = len(table.columns[0].cells)
    for i in range(count):
        cells = [_markdown(column.cells[i]) for column in table.columns]
        if i < len(table.styles) and "bold" in table.styles[i]:
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    for i in range(max((len(column.untrained) for column in table.columns), default=0)):
        lines.append("| " + " | ".join(_markdown(column.untrained[i]) for column in table.columns) + " |")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text of a user as Markdown shows it literally, in a table too."""
    return re.sub(r"([\\`*_{}\[\]<>|~$#!&])", r"\\\1", one_line(text))


def _markdown(cell: Cell) -> str:
    text = escaped(cell.text + (f" ({cell.bounds})" if cell.bounds else ""))
    return f"[{text}]({quote(cell.folder)}/)" if cell.folder else text


def _that_fit(columns: Sequence[Column], width: int, *, below: bool) -> list[Column]:
    """As many columns as there is room for, those that are needed most before others."""
    widths = {id(column): _width(column, below=below) for column in columns}
    chosen = [column for column in columns if column.need == 0]
    for column in sorted((column for column in columns if column.need), key=lambda column: column.need):
        wider = [other for other in columns if other in chosen or other is column]
        if sum(widths[id(other)] for other in wider) + GAP * (len(wider) - 1) <= width:
            chosen = wider
    fits = sum(widths[id(column)] for column in chosen) + GAP * (len(chosen) - 1) <= width
    # Columns that always have a place have it with their bounds below, where beside them they would not fit.
    return chosen if fits or below else []


def _width(column: Column, *, below: bool) -> int:
    """The width of the widest line; a column that folds makes do with less."""
    cells = [_text(cell, below=below).plain for cell in (*column.cells, *column.untrained)]
    lines = [without_controls(line) for text in (column.heading, *cells) for line in text.split("\n")]
    widest = max(map(cell_len, lines))
    return min(widest, FOLDED) if column.folds else widest


def _drawn(table: Table, columns: Sequence[Column], *, below: bool) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for column in columns:
        drawn.add_column(
            Text("\n".join(map(without_controls, column.heading.split("\n")))),
            justify="right" if column.numeric else "left",
            overflow="fold",
            no_wrap=not column.folds,
        )
    count = len(columns[0].cells)
    for i in range(count):
        style = table.styles[i] if i < len(table.styles) else ""
        cells = [_text(column.cells[i], below=below) for column in columns]
        drawn.add_row(*cells, style=style, end_section=i == count - 1)
    for i in range(max(len(column.untrained) for column in columns)):
        drawn.add_row(*(_text(column.untrained[i], below=below) for column in columns), style="dim")
    return drawn


def _text(cell: Cell, *, below: bool) -> Text:
    text = Text(without_controls(cell.text), style=cell.style)
    if cell.bounds:
        text.append(f"\n{cell.bounds}" if below else f" ({cell.bounds})", style="dim")
    return text
