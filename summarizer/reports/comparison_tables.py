"""A comparison at the terminal: a table for each row set, what it says, what failed, and each run's command."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rich.console import Console

from summarizer.console.amounts import duration
from summarizer.evaluation.metrics import Scores
from summarizer.evaluation.pipeline import BASE, LEAD
from summarizer.evaluation.record import FAITHFULNESS, LOSS, VARIANTS
from summarizer.reports.compared import ComparedRun, Comparison
from summarizer.reports.comparison import LOSS as RANKED_BY_LOSS
from summarizer.reports.sentences import (
    about_the_differences,
    answers,
    confirmed_answers,
    counted,
    in_words,
    p_text,
    signed,
    state,
)
from summarizer.reports.tables import (
    EMPTY,
    Cell,
    Column,
    Table,
    informative,
    loss_cell,
    print_line,
    print_table,
    scored,
    whole,
)
from summarizer.runs.read_runs import RowSet
from summarizer.runs.settings import UNSET, heading, setting

GIB = 2**30
LONGEST_VALUE = 24
"""Characters that a setting takes in a table; of a longer one the end is shown."""
NEEDED_KEYS = 2
"""How many of the settings that differ are needed most: the first tell runs apart best."""
MOST_COMMANDS = 20
"""Runs whose commands are printed; of more, only the best of each row set."""
MOST_KEYS = 6
"""Settings that get columns where they are not the runs' names."""


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print all of a comparison. Where the terminal is narrow, columns are left out, and a line says which."""
    said = iter(answers(comparison))
    for row_set in comparison.row_sets:
        runs = [run for run in comparison.runs if run.row_set == row_set]
        print_table(console, _scored_table(comparison, row_set, runs))
        if row_set in comparison.best:
            answer = next(said)
            for line in (answer.headline, answer.certainty, *_pairing(comparison, runs)):
                print_line(console, line)
        else:
            print_line(
                console, f"None of them has {comparison.ranked_by}, so there is no best; --by names another."
            )
        console.print()
    for answer in confirmed_answers(comparison):
        print_line(console, answer.headline, "bold")
        print_line(console, answer.certainty)
        console.print()
    if unscored := [run for run in comparison.runs if run.row_set is None]:
        print_table(console, _unscored_table(unscored, _settings(comparison, unscored)))
        console.print()
    for run in comparison.runs:
        if run.record.status == "failed":
            print_line(console, f"Failed: {run.name}: {run.why or 'it does not say why'}", "red")
    for note in comparison.notes:
        print_line(console, f"Note: {note}")
    for path, problem in comparison.problems.items():
        print_line(console, f"Could not be read: {path}: {problem}", "red")
    _print_commands(comparison, console)


def _scored_table(comparison: Comparison, row_set: RowSet, runs: Sequence[ComparedRun]) -> Table:
    """The runs of one row set, in the order in which they stand, above the systems that they have to beat."""
    by = comparison.ranked_by
    paired = "rougeLsum" if by == RANKED_BY_LOSS else by
    untrained = _untrained(runs)

    def column(
        title: str,
        need: int,
        of_run: Callable[[ComparedRun], Cell],
        of_scores: Callable[[Scores], Cell] = lambda scores: EMPTY,
        *,
        numeric: bool = True,
    ) -> Column:
        cells = [of_run(run) for run in runs]
        return Column(title, cells, [of_scores(one) for _, one in untrained], numeric=numeric, need=need)

    names = [Cell(run.name) for run in runs]
    columns = [
        Column("run", names, [Cell(name) for name, _ in untrained], numeric=False, folds=True),
        *(
            column(_key(key), 1 if place < NEEDED_KEYS else 7, _setting(key))
            for place, key in enumerate(_settings(comparison, runs))
        ),
        column(LOSS, 0 if by == RANKED_BY_LOSS else 3, lambda run: _loss(run.scores), _loss),
        *(
            column(
                variant,
                0 if variant == by else 1 if variant == paired else 4,
                lambda run, variant=variant: _rouge(run.scores, variant),  # type: ignore[misc]
                lambda scores, variant=variant: _rouge(scores, variant),  # type: ignore[misc]
            )
            for variant in VARIANTS
        ),
        *(
            column(
                name,
                11,
                lambda run, name=name: _faithfulness(run.scores, name),  # type: ignore[misc]
                lambda scores, name=name: _faithfulness(scores, name),  # type: ignore[misc]
            )
            for name in FAITHFULNESS
        ),
        column(f"behind the best,\n{paired}", 2, lambda run: _behind(comparison, run, paired)),
        column(
            "status",
            3,
            lambda run: EMPTY if run.record.status == "completed" else Cell(state(run.record)),
            numeric=False,
        ),
        column("time", 5, lambda run: Cell("" if run.record.wall_s is None else duration(run.record.wall_s))),
        column("memory\nGiB", 6, lambda run: Cell(_gib(run.record.peak_memory_bytes))),
        column("tokens/s", 8, lambda run: Cell(whole(run.record.tokens_per_s))),
        column("trainable\nparameters", 9, lambda run: Cell(whole(run.record.trainable_parameters))),
        column("steps", 10, lambda run: Cell(whole(run.record.steps))),
    ]
    best = comparison.best.get(row_set)
    return Table(informative(columns), _heading(comparison, row_set), _styles(runs, best))


def _unscored_table(runs: Sequence[ComparedRun], keys: Sequence[str]) -> Table:
    """The table of runs without final scores."""

    def column(title: str, need: int, of_run: Callable[[ComparedRun], Cell], *, text: bool = False) -> Column:
        folds = text and title != "status"
        return Column(title, [of_run(run) for run in runs], numeric=not text, folds=folds, need=need)

    columns = [
        column("run", 0, lambda run: Cell(run.name), text=True),
        *(column(_key(key), 3, _setting(key)) for key in keys),
        column("status", 0, lambda run: Cell(state(run.record)), text=True),
        column("best val/loss\nduring training", 1, _best_during_training),
        column("why", 2, lambda run: Cell(run.why or ""), text=True),
    ]
    title = f"Without final scores: {counted(len(runs), 'run')}"
    return Table(informative(columns), title, _styles(runs, None))


def _styles(runs: Sequence[ComparedRun], best: str | None) -> list[str]:
    return ["bold" if run.name == best else "red" if run.record.status == "failed" else "" for run in runs]


def _settings(comparison: Comparison, runs: Sequence[ComparedRun]) -> list[str]:
    """Keys that get columns: those in which these runs differ, unless their names say that already."""
    differ = [key for key in comparison.swept if len({run.config.get(key, UNSET) for run in runs}) > 1]
    return [key for key in differ if not any(_says(run.name, key) for run in runs)][:MOST_KEYS]


def _says(name: str, key: str) -> bool:
    """Whether a run's name has a setting, whose key may be shortened there."""
    return re.search(rf"(^|[ .]){re.escape(heading(key).rpartition('.')[2])}=", name) is not None


def _key(key: str) -> str:
    # A dotted key is wider than its values.
    return heading(key).replace(".", ".\n")


def _setting(key: str) -> Callable[[ComparedRun], Cell]:
    return lambda run: Cell(_end(setting(key, run.config)))


def _end(text: str) -> str:
    """The end of a long value, which tells most of a path."""
    return text if len(text) <= LONGEST_VALUE else "…" + text[1 - LONGEST_VALUE :]


def _heading(comparison: Comparison, row_set: RowSet) -> str:
    alike = [
        other for other in comparison.row_sets if (other.split, other.rows) == (row_set.split, row_set.rows)
    ]
    which = f" (rows {row_set.digest[:8]})" if len(alike) > 1 else ""
    best = "lowest loss" if comparison.ranked_by == RANKED_BY_LOSS else f"highest {comparison.ranked_by}"
    return (
        f"{row_set.split}, {counted(row_set.rows, 'row')}{which}, ROUGE by {row_set.tokenizer}: {best} first"
    )


def _untrained(runs: Sequence[ComparedRun]) -> list[tuple[str, Scores]]:
    """What the runs have to beat: their base models, each once, and Lead-3."""
    bases: list[tuple[Scores, list[str]]] = []
    for run in runs:
        if run.base is not None:
            known = next((names for scores, names in bases if _alike(run.base, scores)), None)
            if known is None:
                bases.append((run.base, [run.name]))
            else:
                known.append(run.name)
    rows = [(BASE if len(bases) == 1 else f"{BASE} of {_first(names)}", scores) for scores, names in bases]
    lead = next((run.lead3 for run in runs if run.lead3 is not None), None)
    return rows if lead is None else [*rows, (LEAD, lead)]


def _first(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _alike(one: Scores, other: Scores) -> bool:
    """Whether they show the same: runs of one base model differ in the last digits, by their batches."""
    return [f"{i.value:.2f}" for i in one.rouge.values()] == [
        f"{i.value:.2f}" for i in other.rouge.values()
    ] and (one.loss is None or other.loss is None or abs(one.loss - other.loss) < 0.0005)


def _rouge(scores: Scores | None, variant: str) -> Cell:
    return scored(scores.rouge.get(variant) if scores else None)


def _faithfulness(scores: Scores | None, name: str) -> Cell:
    return scored(scores.faithfulness.get(name) if scores else None)


def _loss(scores: Scores | None) -> Cell:
    return loss_cell(scores.loss if scores else None)


def _behind(comparison: Comparison, run: ComparedRun, variant: str) -> Cell:
    if run.row_set is not None and comparison.best.get(run.row_set) == run.name:
        return Cell("the best") if comparison.against_best else EMPTY
    difference = comparison.against_best.get(run.name, {}).get(variant)
    if difference is None:
        return EMPTY
    return Cell(signed(difference.mean.value), f"p {p_text(difference.p_holm)}")


def _best_during_training(run: ComparedRun) -> Cell:
    points = [point for point in run.history.get(RANKED_BY_LOSS, ()) if point.step]
    if not points:
        return EMPTY
    best = min(points, key=lambda point: point.value)
    return Cell(f"{best.value:.3f}", f"step {best.step}")


def _gib(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / GIB:.2f}"


def _pairing(comparison: Comparison, runs: Sequence[ComparedRun]) -> list[str]:
    """How to read the table's column of differences."""
    every = [d for run in runs for d in comparison.against_best.get(run.name, {}).values()]
    found = [d for d in every if d.metric in FAITHFULNESS and d.significant]
    return [
        *about_the_differences([d for d in every if d.metric in VARIANTS], "The best"),
        *in_words(found),
    ]


def _print_commands(comparison: Comparison, console: Console) -> None:
    runs = list(comparison.runs)
    if len(runs) > MOST_COMMANDS:
        runs = [run for run in runs if run.name in comparison.best.values()]
    console.print()
    which = (
        "" if len(runs) == len(comparison.runs) else ", the best of each table; --html and --json have all"
    )
    print_line(console, f"Commands{which}", "bold")
    for run in runs:
        print_line(console, f"{run.name}   {run.source}")
        print_line(console, f"  {run.command or 'its record does not say'}", "dim")
