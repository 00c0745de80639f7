"""The columns of runs beside each other, and which of them a terminal has room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from summarizer.comparing.answer import signed
from summarizer.comparing.compared import ComparedRun, Comparison
from summarizer.comparing.comparison import LOSS
from summarizer.comparing.settings import heading, setting
from summarizer.evaluation.metrics import VARIANTS, Scores
from summarizer.scoring.tables import Cell
from summarizer.scoring.words import p_text

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
        Column("status", 3, lambda run: EMPTY if run.status == "completed" else Cell(state(run))),
        Column("time", 5, lambda run: Cell("" if run.wall_s is None else duration(run.wall_s))),
        Column(
            "memory\nGiB",
            6,
            lambda run: Cell("" if run.peak_memory_bytes is None else f"{run.peak_memory_bytes / GIB:.2f}"),
        ),
        Column("tokens/s", 8, lambda run: Cell(_whole(run.tokens_per_s))),
        Column("trainable\nparameters", 9, lambda run: Cell(_whole(run.trainable_parameters))),
        Column("steps", 10, lambda run: Cell(_whole(run.steps))),
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
    return run.status if run.status == "completed" or not run.steps else f"{run.status} at step {run.steps}"


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
