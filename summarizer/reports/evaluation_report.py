"""An evaluation as a person reads it: at the terminal, and in `scores.md`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from summarizer.evaluation import mlperf
from summarizer.evaluation.metrics import MEANING, Interval
from summarizer.evaluation.record import Evaluation, SystemPart
from summarizer.evaluation.text_statistics import Statistic
from summarizer.reports.sentences import about_the_comparisons, in_words
from summarizer.reports.sweep_tables import escaped

NOTHING = "–"
WIDTH_OF_A_PIPE = 200
"""Columns, where no terminal says how many there are."""
REFERENCES = "references"


@dataclass(frozen=True)
class Cell:
    value: str
    bounds: str = ""
    """Of the 95 % interval."""


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn; the first column is text, the others are numbers."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    below: Sequence[str] = ()
    """What a reader needs to read it."""


def grids(evaluation: Evaluation) -> list[Grid]:
    """All tables of an evaluation. All systems in one are scored on the same rows by the same variants."""
    return [_scores(evaluation), *_mlperf(evaluation), _statistics(evaluation)]


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """At a terminal intervals stand below their values, so that a row fits into 80 columns."""
    piped = not console.is_terminal
    if piped:
        console.width = WIDTH_OF_A_PIPE
    for grid in grids(evaluation):
        console.print(Text(grid.title, style="bold"), soft_wrap=piped)
        console.print(_drawn(grid))
        for line in grid.below:
            console.print(Text(line, style="dim"), soft_wrap=piped)
        console.print()
    for line in (*_comparisons(evaluation), *(f"Note: {note}." for note in evaluation.notes)):
        console.print(Text(line), soft_wrap=piped)


def markdown(evaluation: Evaluation) -> str:
    """The whole of it, with intervals beside their values."""
    lines = ["# Scores", ""]
    for grid in grids(evaluation):
        lines += [f"## {escaped(grid.title)}", ""]
        lines.append("| " + " | ".join(escaped(heading) for heading in grid.headings) + " |")
        lines.append("|---|" + "---:|" * (len(grid.headings) - 1))
        for row in grid.rows:
            cells = [escaped(cell.value + (f" ({cell.bounds})" if cell.bounds else "")) for cell in row]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", *(f"- {escaped(line)}" for line in grid.below), ""]
    if evaluation.differences:
        lines += ["## Differences", "", *(f"- {escaped(line)}" for line in _comparisons(evaluation)), ""]
    if evaluation.notes:
        lines += ["## To know", "", *(f"- {escaped(note)}." for note in evaluation.notes), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _scores(evaluation: Evaluation) -> Grid:
    variants = list(MEANING)
    has_loss = any(system.loss is not None for system in evaluation.systems)
    has_bertscore = any(system.bertscore for system in evaluation.systems)

    def row(system: SystemPart) -> list[Cell]:
        cells = [Cell(system.name)]
        if has_loss:
            cells.append(Cell(NOTHING if system.loss is None else f"{system.loss:.3f}"))
        cells += [_score(system.rouge[variant]) for variant in variants]
        if has_bertscore:
            cells.append(_score(system.bertscore["f1"]) if system.bertscore else Cell(NOTHING))
        return cells

    below = [f"{variant} is {MEANING[variant]}" for variant in variants]
    below.append(
        "ROUGE is F1 in percent with the Porter stemmer; intervals are 95 %, by "
        f"{evaluation.bootstrap_samples:,} bootstrap samples of the rows"
    )
    if has_loss:
        below.append("loss: nats per summary token, with the reference summaries")
    if evaluation.bertscore_by:
        below.append(f"BERTScore: F1 by {evaluation.bertscore_by}, raw, without idf and baseline rescaling")
    return Grid(
        title=f"{evaluation.rows}",
        headings=[
            "system",
            *(["loss"] if has_loss else []),
            *variants,
            *(["BERTScore"] if has_bertscore else []),
        ],
        rows=[row(system) for system in evaluation.systems],
        below=below,
    )


def _statistics(evaluation: Evaluation) -> Grid:
    columns = {system.name: system.statistics for system in evaluation.systems}
    columns[REFERENCES] = evaluation.references

    def cell(statistic: Statistic) -> Cell:
        if statistic.mean is None:
            return Cell(NOTHING)
        return Cell(f"{statistic.mean.value:.2f}")

    return Grid(
        title="What the summaries are like",
        headings=["mean", *columns],
        rows=[
            [Cell(f"{name.replace('_', ' ')}"), *(cell(column[name]) for column in columns.values())]
            for name in evaluation.references
        ],
        below=[
            "coverage, novel n-grams and repeated trigrams are shares from 0 to 1; density is in words; "
            "compression is article words per summary word",
            "their intervals are in scores.json",
        ],
    )


def _mlperf(evaluation: Evaluation) -> list[Grid]:
    if evaluation.protocol != "mlperf":
        return []
    levels = list(mlperf.LEVELS)
    rows = []
    below = []
    for system in evaluation.systems:
        if system.mlperf is None:
            continue
        for figure in system.mlperf.figures:
            judged = [
                NOTHING if system.mlperf.refusal else "pass" if figure.passes[level] else "fail"
                for level in levels
            ]
            decimals = 0 if figure.name == "gen_len" else mlperf.DECIMALS
            # The reference's length is a total over all rows.
            of_all = figure.name != "gen_len" or system.mlperf.refusal is None
            share = f"{100 * figure.value / figure.reference:.1f} %" if of_all else NOTHING
            texts = [f"{figure.value:,.{decimals}f}", f"{figure.reference:,.{decimals}f}", share]
            rows.append([Cell(system.name), Cell(figure.name), *map(Cell, texts), *map(Cell, judged)])
        verdict = system.mlperf.refusal or ", ".join(
            f"{level}: {'passed' if system.mlperf.passed[level] else 'failed'}" for level in levels
        )
        below.append(f"{system.name}: {verdict}")
        sentences = f"sentences cut by {system.mlperf.sentences_by}"
    below.append(
        f"{sentences}; gen_len is in characters, and 90 % of the reference's is enough at both levels"
    )
    headings = ["system", "figure", "value", "reference", "share", *(f"at {level}" for level in levels)]
    return [Grid("MLPerf Inference, GPT-J on CNN/DailyMail", headings, rows, below)]


def _comparisons(evaluation: Evaluation) -> list[str]:
    return [*in_words(evaluation.differences), *about_the_comparisons(evaluation)]


def _score(score: Interval) -> Cell:
    return Cell(f"{score.value:.2f}", f"{score.low:.1f} to {score.high:.1f}")


def _drawn(grid: Grid) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for number, heading in enumerate(grid.headings):
        table.add_column(Text(heading), justify="right" if number else "left", overflow="fold")
    for row in grid.rows:
        table.add_row(
            *(Text(cell.value + (f"\n{cell.bounds}" if cell.bounds else ""), justify=None) for cell in row)
        )
    return table
