"""The ranked table of a sweep: for the terminal, for Markdown, and as plain rows for wandb."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from summarizer.console.safe_text import one_line
from summarizer.evaluation.record import LOSS, VARIANTS, Interval
from summarizer.reports.sentences import metric_name, shown, state
from summarizer.reports.tables import EMPTY, Cell, Column, Table, Value, loss_cell, scored, whole
from summarizer.runs.record import RunRecord
from summarizer.runs.settings import SweepAxes
from summarizer.sweeps.record import Reference, SweepRecord

IN_TERMINAL = "rougeL"
"""The variant of ROUGE that a terminal has room for; sweep.md has all."""


def sweep_table(
    record: SweepRecord, swept: SweepAxes, title: str = "", *, at_terminal: bool = False
) -> Table:
    """The runs, the best first, and below them what they are measured by; columns that say nothing are left out.

    at_terminal: the names of what the runs are measured by stand in the column of the status, which is wide; in
    that of the runs' numbers they would cost the others their width.
    """
    runs, references = record.ranked(), record.references
    metric = record.metric
    names = [Cell(one.system) for one in references]
    nameless = [EMPTY] * len(references)

    def column(
        heading: str,
        value: Callable[[RunRecord], Value],
        text: Callable[[RunRecord], str] | None = None,
        untrained: Sequence[Cell] = nameless,
        *,
        at_terminals: bool = True,
    ) -> Column:
        values = [value(run) for run in runs]
        texts = [_text(run, one, text) for run, one in zip(runs, values, strict=True)]
        return Column(
            heading,
            [Cell(of_run) for of_run in texts],
            untrained,
            values,
            numeric=all(isinstance(one, int | float | None) for one in values),
            folds=not all(isinstance(one, int | float | None) for one in values),
            at_terminals=at_terminals,
        )

    run_column = column("run", lambda run: one_line(run.folder), untrained=nameless if at_terminal else names)
    links = [Cell(cell.text, folder=run.folder) for cell, run in zip(run_column.cells, runs, strict=True)]
    columns = [
        column("rank", lambda run: run.rank),
        Column("run", links, run_column.untrained, run_column.values, numeric=False),
        *(_swept_column(key, swept, runs, references) for key in swept.keys),
        column(
            "\n".join(("best", *metric_name(metric).split())),
            lambda run: run.best.value if run.best else None,
            lambda run: shown(metric, run.best.value) if run.best else "",
            [Cell(shown(metric, one.best.value) if one.best else "") for one in references],
        ),
        column(
            "at step",
            lambda run: run.best.step if run.best else None,
            untrained=[Cell(str(one.best.step) if one.best else "") for one in references],
            at_terminals=False,
        ),
        column("status", state, untrained=names if at_terminal else nameless),
        *(found for split, rows in _scored_on(record) for found in _final_columns(split, rows, record)),
        column("steps", lambda run: run.steps, at_terminals=False),
        column("tokens", lambda run: run.tokens, at_terminals=False),
        column(
            "tokens/s",
            lambda run: run.tokens_per_s,
            lambda run: whole(run.tokens_per_s),
            at_terminals=False,
        ),
        column("wall\ns", lambda run: run.wall_s, lambda run: whole(run.wall_s)),
        column("trainable\nparameters", lambda run: run.trainable_parameters, at_terminals=False),
    ]
    styles = ["bold" if run.rank == 1 else "red" if run.status == "failed" else "" for run in runs]
    informative = [one for one in columns if any(value is not None for value in one.values)]
    return Table(informative, title, styles)


def plain_rows(record: SweepRecord, swept: SweepAxes) -> tuple[list[str], list[list[Value]]]:
    """Names of the columns, and a row of plain values for each run: swept numbers are numbers here."""
    columns = sweep_table(record, swept).columns
    of_columns = []
    for column in columns:
        mixed = len({isinstance(value, str) for value in column.values if value is not None}) > 1
        # A table of wandb wants one type in a column.
        of_columns.append([str(value) if mixed and value is not None else value for value in column.values])
    return [column.name for column in columns], [list(row) for row in zip(*of_columns, strict=True)]


def _text(run: RunRecord, value: Value, text: Callable[[RunRecord], str] | None) -> str:
    if value is None:
        return ""
    return text(run) if text else f"{value:,}" if isinstance(value, int) else str(value)


def _swept_column(
    key: str, swept: SweepAxes, runs: Sequence[RunRecord], references: Sequence[Reference]
) -> Column:
    def told_by(one: Reference) -> str:
        """What tells this base model from another."""
        others = [other for other in references if other.system == one.system and other is not one]
        values = {swept.of[folder][key] for folder in one.runs}
        return values.pop().text if others and len(values) == 1 else ""

    of_runs = [swept.of[run.folder][key] for run in runs]
    values: list[Value] = [value.text if value.number is None else value.number for value in of_runs]
    numeric = all(not isinstance(value, str) for value in values)
    return Column(
        one_line(key).replace(".", ".\n"),  # a dotted key is wider than its values
        [Cell(value.text) for value in of_runs],
        [Cell(told_by(one)) for one in references],
        values,
        numeric=numeric,
        folds=not numeric,
    )


def _scored_on(record: SweepRecord) -> Sequence[tuple[str, int]]:
    """The splits, and the numbers of their rows, on which runs were scored: mostly one."""
    return list(
        dict.fromkeys(
            (run.split, run.rows) for run in record.runs if run.split is not None and run.rows is not None
        )
    )


def _final_columns(split: str, rows: int, record: SweepRecord) -> list[Column]:
    """Loss and ROUGE of the runs that were scored on these rows."""
    where = f"{one_line(split)},\n{rows:,} rows"
    runs, references = record.ranked(), record.references

    def here(run: RunRecord | Reference) -> bool:
        return (run.split, run.rows) == (split, rows)

    def interval(run: RunRecord | Reference, variant: str) -> Interval | None:
        return run.rouge[variant] if run.rouge and here(run) else None

    def rouge(variant: str) -> Column:
        of_runs = [interval(run, variant) for run in runs]
        return Column(
            f"{variant}\n{where}",
            [scored(one) for one in of_runs],
            [scored(interval(one, variant)) for one in references],
            [None if one is None else one.value for one in of_runs],
            at_terminals=variant == IN_TERMINAL,
        )

    def loss(run: RunRecord | Reference) -> float | None:
        return run.val_loss if here(run) else None

    losses = Column(
        f"{LOSS}\n{where}",
        [loss_cell(loss(run)) for run in runs],
        [loss_cell(loss(one)) for one in references],
        [loss(run) for run in runs],
        at_terminals=False,
    )
    return [losses, *(rouge(variant) for variant in VARIANTS)]
