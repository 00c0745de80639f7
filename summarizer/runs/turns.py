"""Whose turn it is to train: the runs of a group that have no place, and who of them is next for one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from summarizer.runs.outcome import Outcome
from summarizer.tracking.metrics import METRICS, read_metrics
from summarizer.training.checkpoint import list_checkpoints, step_of
from summarizer.training.course import Course
from summarizer.training.halving import Halving


class Turns:
    """First come, first served; with halving, runs that a rung lets go on come before new ones."""

    def __init__(self, outcomes: Sequence[Outcome], halving: Halving | None) -> None:
        self._halving = halving
        self._of = {outcome.job.folder: outcome for outcome in outcomes}
        self._waiting = [one for one in outcomes if not self.must_wait(one)]

    def take(self, free: int | None, *, training: int) -> list[Outcome]:
        """The next, at most `free` (None: all). training: how many have places now."""
        if free == 0:
            return []
        promoted: list[Outcome] = []
        if self._halving is not None:
            names = self._halving.promotable()[:free]
            if not (names or self._waiting or training) and (name := self._halving.last_resort()):
                names = [name]
            for name in names:
                self._halving.promote(name)
                promoted.append(self._of[name])
        count = len(self._waiting) if free is None else free - len(promoted)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return promoted + taken

    def put_back(self, outcome: Outcome) -> None:
        """It gave its place to others: to wait at its rung, or to be the next that gets one."""
        if not self.must_wait(outcome):
            self._waiting.insert(0, outcome)

    def evaluated(self, values: Mapping[Outcome, tuple[int, float]]) -> None:
        """Runs were evaluated at one boundary. values: the evaluation's number from 1, and trainer.best_metric."""
        if self._halving is None:
            return
        for outcome, (number, value) in values.items():
            rung = self._halving.rung_at(number)
            if rung is not None:
                self._halving.report(outcome.job.folder, rung, value)
        # Who may go on at once keeps the place that it has.
        for name in self._halving.promotable():
            if self._of.get(name) in values:
                self._halving.promote(name)

    def ended(self, outcome: Outcome, *, failed: bool) -> None:
        """It trained to its end, or failed."""
        if self._halving is not None:
            (self._halving.fail if failed else self._halving.finish)(outcome.job.folder)

    def must_wait(self, outcome: Outcome) -> bool:
        """Whether its rung does not let it go on, so far."""
        return self._halving is not None and self._halving.is_paused(outcome.job.folder)


def halving_of(outcomes: Sequence[Outcome], courses: Sequence[Course]) -> Halving | None:
    """The halving that a group's config asks for, with what runs of an earlier process reported.

    outcomes: all of the group's, those that are finished too.  courses: of each.
    """
    spec = outcomes[0].spec
    if spec.sweep.stopping is None or len(outcomes) == 1:
        return None
    metric = spec.trainer.best_metric
    halving = Halving(
        [outcome.job.folder for outcome in outcomes],
        spec.sweep.reduction_factor,
        spec.sweep.first_rung,
        lower_is_better=metric == "val/loss",
    )
    for outcome, course in zip(outcomes, courses, strict=True):
        path = outcome.job.path / METRICS
        if not (outcome.job.resumed and path.is_file()):
            continue
        saved = list_checkpoints(outcome.job.path / "checkpoints")
        last_step = step_of(saved[-1]) if saved else 0
        values = {
            row["step"]: math.inf if row[metric] is None else float(row[metric])
            for row in read_metrics(path)
            if metric in row and course.evaluates_at(row["step"]) and row["step"] <= last_step
        }
        halving.replay(outcome.job.folder, list(values.values()), went_on=last_step > max(values, default=0))
        if outcome.status is not None:
            halving.finish(outcome.job.folder)
    return halving
