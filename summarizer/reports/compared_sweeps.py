"""The sweeps that compared runs are of: their confirmed answers, and what fewer trials would have found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from summarizer.config.paths import shown
from summarizer.errors import ConfigError
from summarizer.reports.budget import budget_note, expected_by_budget
from summarizer.reports.confirmed import confirmed_answer, confirmed_notes
from summarizer.reports.sentences import decimals, metric_name, metric_unit
from summarizer.runs.read_runs import RunFiles
from summarizer.runs.settings import sweep_axes
from summarizer.sweeps.record import FILE_NAME, collect


@dataclass(frozen=True)
class ComparedSweep:
    """What the folder of a sweep says beside its runs."""

    source: str
    """The folder, as the user sees it."""
    answer: str | None
    """What is sure on rows that chose nothing; None where it was not confirmed."""
    certainty: tuple[str, ...]
    metric: str
    unit: str
    decimals: int
    expected_best: Mapping[str, Sequence[float]]
    """Of 1, 2, ... trials, by kind of adapter, or of all of them under ""."""
    note: str
    """What the expected values are of."""


def compared_sweeps(runs: Sequence[RunFiles], problems: dict[str, str]) -> tuple[ComparedSweep, ...]:
    """The sweeps of these runs, in the runs' order; what cannot be read is added to the problems, by its path."""
    found = []
    for folder in dict.fromkeys(run.folder.parent for run in runs):
        if not (folder / FILE_NAME).is_file():
            continue
        try:
            record = collect(folder)
            swept = sweep_axes(record.runs)
        except ConfigError as error:
            problems[shown(folder / FILE_NAME)] = "; ".join(issue.message for issue in error.issues)
            continue
        of = record.confirmed
        found.append(
            ComparedSweep(
                source=shown(folder),
                answer=None if of is None else confirmed_answer(of),
                certainty=() if of is None else tuple(confirmed_notes(of)),
                metric=metric_name(record.metric),
                unit=metric_unit(record.metric),
                decimals=decimals(record.metric),
                expected_best=expected_by_budget(record, swept),
                note=budget_note(record, swept),
            )
        )
    return tuple(found)
