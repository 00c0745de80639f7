"""A comparison at the terminal: a table for each row set, what it says, what failed, and each run's command."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from summarizer.evaluation.metrics import VARIANTS, Scores
from summarizer.evaluation.statistics import smallest_p, too_few_rows
from summarizer.reports.compared import ComparedRun, Comparison
from summarizer.reports.comparison import LOSS
from summarizer.reports.evaluation_report import Cell
from summarizer.reports.sentences import answers, p_text, signed
from summarizer.runs.read_runs import RowSet
from summarizer.runs.settings import heading, setting
from summarizer.sweeps.swept import UNSET

EMPTY = Cell("")
GIB = 2**30
LONGEST_VALUE = 24
"""Characters of a setting."""
NEEDED_KEYS = 2
"""Of the settings that differ, the first tell runs apart best."""


@dataclass(frozen=True)
class Column:
    heading: str
    need: int
    """The lower, the sooner it has a place where there is not room for all; 0 always has."""
    of_run: Callable[[ComparedRun], Cell]
    of_scores: Callable[[Scores], Cell] = lambda scores: EMPTY
    """For the rows of the base alone and Lead-3."""


def scored_columns(comparison: Comparison, runs: Sequence[ComparedRun], keys: Sequence[str]) -> list[Column]:
    """For runs of one row set, in the order in which they stand; those that say nothing of any run are left out.

    keys: of the config, that get columns.
    """
    by = comparison.ranked_by
    paired = "rougeLsum" if by == LOSS else by
    columns = [
        Column("run", 0, lambda run: Cell(run.name)),
        *(_setting(key, 1 if place < NEEDED_KEYS else 7) for place, key in enumerate(keys)),
        Column("loss", 0 if by == LOSS else 3, lambda run: _loss(run.scores), _loss),
        *(_rouge(variant, 0 if variant == by else 1 if variant == paired else 4) for variant in VARIANTS),
        Column(f"behind the best,\n{paired}", 2, lambda run: _behind(comparison, run, paired)),
        Column("status", 3, lambda run: EMPTY if run.record.status == "completed" else Cell(state(run))),
        Column("time", 5, lambda run: Cell("" if run.record.wall_s is None else duration(run.record.wall_s))),
        Column(
            "memory\nGiB",
            6,
            lambda run: Cell(
                "" if run.record.peak_memory_bytes is None else f"{run.record.peak_memory_bytes / GIB:.2f}"
            ),
        ),
        Column("tokens/s", 8, lambda run: Cell(_whole(run.record.tokens_per_s))),
        Column("trainable\nparameters", 9, lambda run: Cell(_whole(run.record.trainable_parameters))),
        Column("steps", 10, lambda run: Cell(_whole(run.record.steps))),
    ]
    return _telling(columns, runs)


def unscored_columns(runs: Sequence[ComparedRun], keys: Sequence[str]) -> list[Column]:
    """For runs without final scores."""
    columns = [
        Column("run", 0, lambda run: Cell(run.name)),
        *(_setting(key, 3) for key in keys),
        Column("status", 0, lambda run: Cell(state(run))),
        Column("best val/loss\non the way", 1, _best_on_the_way),
        Column("why", 2, lambda run: Cell(run.why or "")),
    ]
    return _telling(columns, runs)


def state(run: ComparedRun) -> str:
    """`completed`, `stopped at step 20`."""
    return (
        run.record.status
        if run.record.status == "completed" or not run.record.steps
        else f"{run.record.status} at step {run.record.steps}"
    )


def duration(seconds: float) -> str:
    """`9 s`, `5 min 8 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _telling(columns: Sequence[Column], runs: Sequence[ComparedRun]) -> list[Column]:
    return [column for column in columns if any(column.of_run(run) != EMPTY for run in runs)]


def _setting(key: str, need: int) -> Column:
    # A dotted key is wider than its values.
    return Column(heading(key).replace(".", ".\n"), need, lambda run: Cell(_end(setting(key, run.config))))


def _end(text: str) -> str:
    """Of a long value, such as a path, what tells most."""
    return text if len(text) <= LONGEST_VALUE else "…" + text[1 - LONGEST_VALUE :]


def _rouge(variant: str, need: int) -> Column:
    def cell(scores: Scores | None) -> Cell:
        score = scores.rouge.get(variant) if scores else None
        return EMPTY if score is None else Cell(f"{score.value:.2f}", f"{score.low:.1f}–{score.high:.1f}")

    return Column(variant, need, lambda run: cell(run.scores), cell)


def _loss(scores: Scores | None) -> Cell:
    return EMPTY if scores is None or scores.loss is None else Cell(f"{scores.loss:.3f}")


def _behind(comparison: Comparison, run: ComparedRun, variant: str) -> Cell:
    if run.row_set is not None and comparison.best.get(run.row_set) == run.name:
        return Cell("the best")
    difference = comparison.against_best.get(run.name, {}).get(variant)
    if difference is None:
        return EMPTY
    return Cell(signed(difference.mean.value), f"p {p_text(difference.p_holm)}")


def _best_on_the_way(run: ComparedRun) -> Cell:
    points = [point for point in run.history.get(LOSS, ()) if point.step]
    if not points:
        return EMPTY
    best = min(points, key=lambda point: point.value)
    return Cell(f"{best.value:.3f}", f"step {best.step}")


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


MOST_COMMANDS = 20
"""Runs whose commands are printed; of more, only the best of each row set."""
WIDTH_OF_A_PIPE = 1000
"""Columns, where no terminal says how many there are: as many as a line takes."""
MOST_KEYS = 6
"""Settings that get columns where they are not the runs' names."""
FOLDING, FOLDED = ("run", "why"), 20
"""Columns whose texts may go on in a further line, and the least width of one in characters."""
GAP = 2
"""Characters between columns."""


def print_comparison(comparison: Comparison, console: Console) -> None:
    """All of it. Where the terminal is narrow, columns are left out, and a line says which."""
    if not console.is_terminal:
        console.width = WIDTH_OF_A_PIPE
    said = iter(answers(comparison))
    for row_set in comparison.row_sets:
        runs = [run for run in comparison.runs if run.row_set == row_set]
        _line(console, _heading(comparison, row_set), "bold")
        columns = scored_columns(comparison, runs, _settings(comparison, runs))
        _print_table(console, columns, runs, _beside(runs), comparison.best.get(row_set))
        if row_set in comparison.best:
            answer = next(said)
            for line in (answer.headline, answer.certainty, *_reading(comparison, runs)):
                _line(console, line)
        else:
            _line(
                console, f"None of them has {comparison.ranked_by}, so there is no best; --by names another."
            )
        console.print()
    if unscored := [run for run in comparison.runs if run.row_set is None]:
        _line(console, f"Without final scores: {_count(len(unscored), 'run')}", "bold")
        columns = unscored_columns(unscored, _settings(comparison, unscored))
        _print_table(console, columns, unscored, [], None)
        console.print()
    for run in comparison.runs:
        if run.record.status == "failed":
            _line(console, f"Failed: {run.name}: {run.why or 'it does not say why'}", "red")
    for note in comparison.notes:
        _line(console, f"Note: {note}")
    for path, problem in comparison.problems.items():
        _line(console, f"Could not be read: {path}: {problem}", "red")
    _print_commands(comparison, console)


def _settings(comparison: Comparison, runs: Sequence[ComparedRun]) -> list[str]:
    """Keys that get columns: those in which these runs differ, unless their names say that already."""
    differ = [key for key in comparison.swept if len({run.config.get(key, UNSET) for run in runs}) > 1]
    return [key for key in differ if not any(_says(run.name, key) for run in runs)][:MOST_KEYS]


def _says(name: str, key: str) -> bool:
    """Whether a run's name has a setting, whose key may be shortened there."""
    return re.search(rf"(^|[ .]){re.escape(heading(key).rpartition('.')[2])}=", name) is not None


def _heading(comparison: Comparison, row_set: RowSet) -> str:
    alike = [
        other for other in comparison.row_sets if (other.split, other.rows) == (row_set.split, row_set.rows)
    ]
    which = f" (rows {row_set.digest[:8]})" if len(alike) > 1 else ""
    best = "lowest loss" if comparison.ranked_by == LOSS else f"highest {comparison.ranked_by}"
    return f"{row_set.split}, {_count(row_set.rows, 'row')}{which}: {best} first"


def _beside(runs: Sequence[ComparedRun]) -> list[tuple[str, Scores]]:
    """What the runs have to beat: their bases, each once, and Lead-3."""
    bases: list[tuple[Scores, list[str]]] = []
    for run in runs:
        if run.base is not None:
            known = next((names for scores, names in bases if _alike(run.base, scores)), None)
            if known is None:
                bases.append((run.base, [run.name]))
            else:
                known.append(run.name)
    rows = [
        ("base alone" if len(bases) == 1 else f"base alone of {_first(names)}", scores)
        for scores, names in bases
    ]
    lead = next((run.lead3 for run in runs if run.lead3 is not None), None)
    return rows if lead is None else [*rows, ("Lead-3", lead)]


def _first(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _alike(one: Scores, other: Scores) -> bool:
    """Whether they show the same: runs of one base differ in the last digits, by the size of their batches."""
    return [f"{i.value:.2f}" for i in one.rouge.values()] == [
        f"{i.value:.2f}" for i in other.rouge.values()
    ] and (one.loss is None or other.loss is None or abs(one.loss - other.loss) < 0.0005)


def _print_table(
    console: Console,
    columns: Sequence[Column],
    runs: Sequence[ComparedRun],
    beside: Sequence[tuple[str, Scores]],
    best: str | None,
) -> None:
    """Bounds stand beside their values where all columns fit so, else below them."""
    for below in (False, True):
        chosen = _that_fit(console, columns, runs, beside, below=below)
        if len(chosen) == len(columns):
            break
    console.print(_table(chosen, runs, beside, best, below=below))
    if left := [
        column.heading.replace(".\n", ".").replace("\n", " ") for column in columns if column not in chosen
    ]:
        _line(console, f"No room for: {', '.join(left)}. A wider terminal, --html or --json has them.", "dim")


def _that_fit(
    console: Console,
    columns: Sequence[Column],
    runs: Sequence[ComparedRun],
    beside: Sequence[tuple[str, Scores]],
    *,
    below: bool,
) -> list[Column]:
    """As many columns as the console has room for, those that are needed most before others."""
    rows: list[ComparedRun | tuple[str, Scores]] = [*runs, *beside]
    width_of = {
        column.heading: _width(column, [_cell(column, row) for row in rows], below=below)
        for column in columns
    }
    chosen = [column for column in columns if column.need == 0]
    for column in sorted((column for column in columns if column.need), key=lambda column: column.need):
        wider = [other for other in columns if other in chosen or other is column]
        if sum(width_of[other.heading] for other in wider) + GAP * (len(wider) - 1) <= console.width:
            chosen = wider
    return chosen


def _width(column: Column, cells: Sequence[Cell], *, below: bool) -> int:
    """Of its widest line; a column that folds makes do with less."""
    lines = [
        *column.heading.split("\n"),
        *(line for cell in cells for line in _text(cell, below).plain.split("\n")),
    ]
    widest = max(map(cell_len, lines))
    return min(widest, FOLDED) if column.heading in FOLDING else widest


def _cell(column: Column, row: ComparedRun | tuple[str, Scores]) -> Cell:
    if isinstance(row, ComparedRun):
        return column.of_run(row)
    name, scores = row
    return Cell(name) if column.heading == "run" else column.of_scores(scores)


def _table(
    columns: Sequence[Column],
    runs: Sequence[ComparedRun],
    beside: Sequence[tuple[str, Scores]],
    best: str | None,
    *,
    below: bool,
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for column in columns:
        folds = column.heading in FOLDING
        table.add_column(
            Text(column.heading),
            justify="left" if folds or column.heading == "status" else "right",
            overflow="fold",
            no_wrap=not folds,
        )
    for number, run in enumerate(runs, start=1):
        style = "bold" if run.name == best else "red" if run.record.status == "failed" else ""
        cells = [_text(_cell(column, run), below) for column in columns]
        table.add_row(*cells, style=style, end_section=number == len(runs))
    for row in beside:
        table.add_row(*(_text(_cell(column, row), below) for column in columns), style="dim")
    return table


def _text(cell: Cell, below: bool) -> Text:
    if not cell.bounds:
        return Text(cell.value)
    return Text(f"{cell.value}\n{cell.bounds}" if below else f"{cell.value} ({cell.bounds})")


def _reading(comparison: Comparison, runs: Sequence[ComparedRun]) -> list[str]:
    """How to read the table's last columns, and what so few rows cannot show."""
    differences = [d for run in runs for d in comparison.against_best.get(run.name, {}).values()]
    if not differences:
        return []
    rows, count = differences[0].rows, len(differences)
    lines = [
        f"p: paired over the same {rows:,} rows by sign flips, two-sided, adjusted by Holm over {count} "
        f"comparison{'' if count == 1 else 's'}. The best was chosen on these very rows, which flatters its lead "
        "a little."
    ]
    if too_few_rows(differences):
        lines.append(
            f"So few rows can hardly show a difference: no p value of theirs is below {smallest_p(rows):.2g} "
            "before Holm."
        )
    return lines


def _print_commands(comparison: Comparison, console: Console) -> None:
    runs = list(comparison.runs)
    if len(runs) > MOST_COMMANDS:
        runs = [run for run in runs if run.name in comparison.best.values()]
    console.print()
    which = (
        "" if len(runs) == len(comparison.runs) else ", the best of each table; --html and --json have all"
    )
    _line(console, f"Commands{which}", "bold")
    for run in runs:
        _line(console, f"{run.name}   {run.source}")
        _line(console, f"  {run.command or 'its record does not say'}", "dim")


def _line(console: Console, text: str, style: str = "") -> None:
    # Not broken by us: a terminal wraps it, and what is copied from there has no line break in it.
    console.print(Text(text, style=style), soft_wrap=True)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
