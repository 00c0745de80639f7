"""The ranked table of a sweep: for the terminal, for Markdown, and as plain rows for wandb."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from rich import box
from rich.table import Table
from rich.text import Text

from summarizer.evaluation.metrics import VARIANTS, Interval
from summarizer.reports.sweep_sentences import metric_name, shown, state
from summarizer.runs.record import RunRecord
from summarizer.sweeps.record import Reference, SweepRecord
from summarizer.sweeps.swept import Swept, one_line

Cell = str | int | float | None


def _nothing(_: Reference) -> str:
    return ""


@dataclass(frozen=True)
class Column:
    heading: tuple[str, ...]
    """Lines; the first alone is the column's name where there is but one."""
    cell: Callable[[RunRecord], Cell]
    """The plain value."""
    text: Callable[[RunRecord], str] | None = None
    """The value as a person reads it, where that says more."""
    brief: bool = True
    """Whether it has a place in a terminal."""
    beside: Callable[[Reference], str] = _nothing
    """What it says of what the runs are measured by."""

    def shown(self, run: RunRecord) -> str:
        value = self.cell(run)
        if value is None:
            return ""
        return self.text(run) if self.text else f"{value:,}" if isinstance(value, int) else str(value)


def columns(record: SweepRecord, swept: Swept) -> list[Column]:
    """The columns that at least one run has something to say in."""
    metric = record.metric
    all_columns = [
        Column(("rank",), lambda run: run.rank),
        Column(("run",), lambda run: one_line(run.folder), beside=lambda one: one.system),
        *(_swept_column(key, swept, record) for key in swept.keys),
        Column(
            ("best", *metric_name(metric).split()),
            lambda run: run.best.value if run.best else None,
            lambda run: shown(metric, run.best.value) if run.best else "",
            beside=lambda one: shown(metric, one.best.value) if one.best else "",
        ),
        Column(
            ("at step",),
            lambda run: run.best.step if run.best else None,
            brief=False,
            beside=lambda one: str(one.best.step) if one.best else "",
        ),
        Column(("status",), state),
        *(column for split, rows in _scored(record) for column in _final_columns(split, rows)),
        Column(("steps",), lambda run: run.steps, brief=False),
        Column(("tokens",), lambda run: run.tokens, brief=False),
        Column(
            ("tokens/s",), lambda run: run.tokens_per_s, lambda run: _whole(run.tokens_per_s), brief=False
        ),
        Column(("wall", "s"), lambda run: run.wall_s, lambda run: _whole(run.wall_s)),
        Column(("trainable", "parameters"), lambda run: run.trainable_parameters, brief=False),
    ]
    return [column for column in all_columns if any(column.cell(run) is not None for run in record.runs)]


def terminal_table(record: SweepRecord, swept: Swept, title: str) -> Table:
    """The table for a terminal, without what only sweep.md has room for."""
    table = Table(
        title=Text(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        collapse_padding=True,
        pad_edge=False,
    )
    chosen = [column for column in columns(record, swept) if column.brief]
    runs = record.ranked()
    for column in chosen:
        numeric = all(isinstance(column.cell(run), int | float | None) for run in runs)
        lines = "\n".join(column.heading).replace(".", ".\n")  # a dotted key is wider than its values
        table.add_column(Text(lines), justify="right" if numeric else "left", no_wrap=numeric)
    for run in runs:
        style = "bold" if run.rank == 1 else "red" if run.status == "failed" else ""
        table.add_row(*(Text(column.shown(run)) for column in chosen), style=style)
    table.add_section()
    for one in record.references:
        # In the widest column of text: in that of the runs' numbers it would cost the others their width.
        cells: dict[tuple[str, ...], str] = {("run",): "", ("status",): one.system}
        table.add_row(*(Text(cells.get(column.heading, column.beside(one))) for column in chosen))
    return table


def markdown_table(record: SweepRecord, swept: Swept) -> str:
    """The whole table; a run's folder is a link."""
    chosen = columns(record, swept)
    lines = [
        "| " + " | ".join(escaped(" ".join(column.heading)) for column in chosen) + " |",
        "|" + "---|" * len(chosen),
    ]
    for run in record.ranked():
        cells = [escaped(column.shown(run)) for column in chosen]
        at = next(i for i, column in enumerate(chosen) if column.heading == ("run",))
        cells[at] = f"[{cells[at]}]({quote(run.folder)}/)"
        if run.rank == 1:
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    for one in record.references:
        lines.append("| " + " | ".join(escaped(column.beside(one)) for column in chosen) + " |")
    return "\n".join(lines) + "\n"


def plain_rows(record: SweepRecord, swept: Swept) -> tuple[list[str], list[list[Cell]]]:
    """Names of the columns, and a row of plain values for each run: swept numbers are numbers here."""
    chosen = columns(record, swept)
    rows = [[column.cell(run) for column in chosen] for run in record.ranked()]
    mixed = {
        i
        for i in range(len(chosen))
        if len({isinstance(row[i], str) for row in rows if row[i] is not None}) > 1
    }
    # A table of wandb wants one type in a column.
    plain = [
        [str(cell) if i in mixed and cell is not None else cell for i, cell in enumerate(row)] for row in rows
    ]
    return [" ".join(column.heading) for column in chosen], plain


def escaped(text: str) -> str:
    """Text of a user as Markdown shows it literally, in a table too."""
    return re.sub(r"([\\`*_{}\[\]<>|~$#!&])", r"\\\1", one_line(text))


def _swept_column(key: str, swept: Swept, record: SweepRecord) -> Column:
    def cell(run: RunRecord) -> Cell:
        value = swept.of[run.folder][key]
        return value.text if value.number is None else value.number

    def beside(one: Reference) -> str:
        """What tells this base from another."""
        others = [other for other in record.references if other.system == one.system and other is not one]
        values = {swept.of[folder][key] for folder in one.runs}
        return values.pop().text if others and len(values) == 1 else ""

    return Column((one_line(key),), cell, lambda run: swept.of[run.folder][key].text, beside=beside)


def _scored(record: SweepRecord) -> Sequence[tuple[str, int]]:
    """The splits, and the numbers of their rows, on which runs were scored: mostly one."""
    return list(
        dict.fromkeys(
            (run.split, run.rows) for run in record.runs if run.split is not None and run.rows is not None
        )
    )


def _final_columns(split: str, rows: int) -> list[Column]:
    """Loss and ROUGE of the runs that were scored on these rows."""
    where = (f"{one_line(split)},", f"{rows:,} rows")

    def scored(run: RunRecord | Reference) -> bool:
        return (run.split, run.rows) == (split, rows)

    def rouge(variant: str) -> Column:
        def score(run: RunRecord | Reference) -> Interval | None:
            return run.rouge[variant] if run.rouge and scored(run) else None

        def text(run: RunRecord | Reference) -> str:
            return f"{s.value:.2f} ({s.low:.1f}–{s.high:.1f})" if (s := score(run)) else ""

        return Column(
            (variant, *where),
            lambda run: s.value if (s := score(run)) else None,
            text,
            variant == "rougeL",
            text,
        )

    def loss_text(run: RunRecord | Reference) -> str:
        return "" if run.val_loss is None or not scored(run) else f"{run.val_loss:.3f}"

    loss = Column(
        ("loss", *where),
        lambda run: run.val_loss if scored(run) else None,
        loss_text,
        brief=False,
        beside=loss_text,
    )
    return [loss, *(rouge(variant) for variant in VARIANTS)]


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
