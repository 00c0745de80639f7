"""The end of a run as a person reads it: what was gained, by how much, and where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from summarizer.config.paths import shown
from summarizer.evaluation.rouge import VARIANTS
from summarizer.evaluation.scores import Comparison, Scores
from summarizer.progress import console
from summarizer.runs.heldout import HeldOut

SHOWN_CHARACTERS = 300
"""Of an article, in a terminal."""


def score_table(systems: Mapping[str, Scores], *, rows: int, split: str) -> Table:
    """Loss and ROUGE (percent, with 95 % intervals) of each system on the same rows."""
    table = Table(
        title=f"{split}: {rows} rows, ROUGE F1 in percent with 95 % intervals", title_justify="left"
    )
    table.add_column("")
    table.add_column("loss", justify="right")
    for variant in VARIANTS:
        table.add_column(variant, justify="right")
    for name, scores in systems.items():
        cells = [f"{i.value:.2f}\n{i.low:.1f}–{i.high:.1f}" for i in (scores.rouge[v] for v in VARIANTS)]
        table.add_row(name, "" if scores.loss is None else f"{scores.loss:.3f}", *cells)
    return table


def show_results(scores: Comparison, rows: HeldOut, folder: Path) -> None:
    """The first row's summaries, all rows' scores, and where the rest lies."""
    out = console()
    article = " ".join(rows.articles[0].split())
    out.print(
        f"\nArticle: {article[:SHOWN_CHARACTERS]}{' …' if len(article) > SHOWN_CHARACTERS else ''}",
        markup=False,
    )
    summaries = {name: system.summaries[0] for name, system in scores.systems.items()}
    for name, summary in {**summaries, "reference": rows.references[0]}.items():
        out.print(f"  {name}: {' '.join(summary.split()) or '(empty)'}", markup=False)
    out.print()
    out.print(score_table(scores.systems, rows=len(rows.rows), split=rows.split))
    out.print(f"results: {shown(folder)}/summary.json   adapter: {shown(folder)}/adapter", markup=False)
