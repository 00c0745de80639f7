"""What a search of fewer trials would have found: the expected best value against the number of trials."""

from __future__ import annotations

from summarizer.evaluation.statistics import expected_best
from summarizer.runs.settings import SweepAxes
from summarizer.sweeps.candidates import SEED, settings_of
from summarizer.sweeps.record import SweepRecord

KIND = "adapter"
FEWEST = 2
"""Settings that finished, of which a curve says something."""
QUESTION = "How good is the best of fewer trials?"
NOTE = (
    "Expected best of so many trials, drawn from those that finished, each as likely at every draw (Dodge et al. "
    "2019, arXiv:1909.03004)."
)


def expected_by_budget(record: SweepRecord, swept: SweepAxes) -> dict[str, list[float]]:
    """The expected best value of 1, 2, ... trials by kind of adapter, or of all under "" where one kind was swept.

    A trial is a setting that finished, its seeds averaged. A kind of fewer than FEWEST has no curve.
    """
    groups: dict[str, list[float]] = {}
    for setting in settings_of(record, swept, {}):
        kind = swept.of[setting.runs[0].folder][KIND].text if KIND in swept.keys else ""
        groups.setdefault(kind, []).append(setting.value)
    lower = record.metric.best == "min"
    return {
        kind: expected_best(values, lower_is_better=lower)
        for kind, values in groups.items()
        if len(values) >= FEWEST
    }


def budget_note(record: SweepRecord, swept: SweepAxes) -> str:
    """What the curves are of, in a line or two."""
    seeds = " Seeds of one setting are averaged, and are one trial." if SEED in swept.keys else ""
    unfinished = sum(run.status != "completed" for run in record.runs)
    left = f" {unfinished} of {len(record.runs)} runs did not finish and have no part." if unfinished else ""
    return NOTE + seeds + left
