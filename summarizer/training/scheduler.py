"""Which trials of a group train next: slots, and asynchronous successive halving.

A trial that comes to a rung pauses there. It is promoted where its value is among the best 1 / `reduction_factor`
of all that have come to that rung so far. Source: Li et al. 2018 (arXiv:1810.05934), Algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from summarizer.tracking.metrics import METRICS, EndStatus, read_metrics
from summarizer.training.checkpoint_folders import newest_step
from summarizer.training.trial import Trial


class SuccessiveHalving:
    """The rungs, what was reported at each, and who was promoted.

    What is promotable depends on the values reported, not on their order: those that come in at one step boundary
    are all reported before it is asked. A value that is not finite is worse than any other, and its trial is never
    promoted.
    """

    def __init__(
        self, trials: Sequence[str], reduction_factor: int, first_rung: int, *, lower_is_better: bool
    ) -> None:
        """trials: all of the sweep's, by name; of equal values the earlier trial's counts as the better.

        reduction_factor: one of so many is promoted; 2 or more.  first_rung: in evaluations; 1 or more.
        Raises ValueError for a smaller number, or a name that comes twice.
        """
        if reduction_factor < 2 or first_rung < 1 or len(set(trials)) < len(trials):
            raise ValueError(f"no halving by {reduction_factor} from evaluation {first_rung} on of {trials}")
        self._order = {trial: place for place, trial in enumerate(trials)}
        self._factor, self._first = reduction_factor, first_rung
        self._sign = 1.0 if lower_is_better else -1.0
        self._rungs: list[dict[str, float]] = []
        """What the trials reported at each rung: lower is better, infinity where it was not finite."""
        self._climbing: set[str] = set()
        """Promoted from the highest rung that they have come to."""
        self._finished: set[str] = set()
        self._failed: set[str] = set()
        self._left: set[str] = set()

    def rung_at(self, evaluation: int) -> int | None:
        """Rung k at evaluation first_rung * reduction_factor**k, counted from 1; None between rungs."""
        rung, reached_at = 0, self._first
        while reached_at < evaluation:
            rung, reached_at = rung + 1, reached_at * self._factor
        return rung if reached_at == evaluation else None

    def report(self, trial: str, rung: int, value: float) -> None:
        """What the trial's evaluation at a rung gave; there it pauses until it is promoted.

        A trial that repeats the evaluation of its highest rung, resumed from before it, stays promoted if it was.
        Raises ValueError for an unknown trial or one that has ended, and for a rung that is not its next.
        """
        height = self._height(trial)
        if trial in self._ended or rung not in (height, height - 1):
            raise ValueError(f"{trial} reports at rung {rung}, having come to {height} rungs before")
        if rung == height:
            self._climbing.discard(trial)
        if rung == len(self._rungs):
            self._rungs.append({})
        self._rungs[rung][trial] = self._sign * value if math.isfinite(value) else math.inf

    def add(self, trial: str) -> None:
        """One more trial, the last in order. Raises ValueError for a name that is there."""
        if trial in self._order:
            raise ValueError(f"{trial} is one of this sweep's trials already")
        self._order[trial] = len(self._order)

    def promotable(self) -> list[str]:
        """Paused trials that may be promoted: of the highest rung first, of a rung the best first.

        `promote` takes one out of the list and leaves the others there.
        """
        found = []
        for rung in reversed(self._rungs):
            best = self._ranked(rung)[: len(rung) // self._factor]
            found += [trial for trial in best if self._may_be_promoted(trial, rung)]
        return found

    def promote(self, trial: str) -> None:
        """The trial trains on to its next rung. Raises ValueError where it is not paused."""
        if not self.is_paused(trial):
            raise ValueError(f"{trial} is not paused and cannot be promoted")
        self._climbing.add(trial)

    def is_paused(self, trial: str) -> bool:
        """Whether it waits at its highest rung. Raises ValueError for an unknown trial."""
        return self._height(trial) > 0 and trial not in self._climbing | self._ended

    def paused(self) -> list[str]:
        """In the order of the trials. What is still here when none can be promoted is stopped."""
        return [trial for trial in self._order if self.is_paused(trial)]

    def finish(self, trial: str) -> None:
        """The trial is trained to its end. What it reported stays, and others are measured by it."""
        self._height(trial)
        self._finished.add(trial)

    def fail(self, trial: str) -> None:
        """The trial diverged or broke off: the worst value of the rung that it would have come to next."""
        if not self.is_paused(trial):
            self.report(trial, self._height(trial), math.inf)
        self._failed.add(trial)

    def leave(self, trial: str) -> None:
        """The trial was told to stop, wherever it was. What it reported stays, and others are measured by it."""
        self._height(trial)
        self._left.add(trial)

    def best_paused(self) -> str | None:
        """The best paused trial of the highest rung, where without it no trial would come to its end.

        That is where all trials have paused, failed or left and none is promotable, as in a sweep of fewer trials
        than `reduction_factor`. None otherwise, and where only values are left that are not finite.
        """
        stuck = all(self.is_paused(trial) or trial in self._failed | self._left for trial in self._order)
        if not stuck or self.promotable():
            return None
        for rung in reversed(self._rungs):
            for trial in self._ranked(rung):
                if self._may_be_promoted(trial, rung):
                    return trial
        return None

    def replay(self, trial: str, values: Sequence[float], *, went_on: bool) -> None:
        """Take up a trial from the records of an earlier process.

        values: of all its evaluations, in order.  went_on: it trained on after the last of them, hence had been
        promoted if that was a rung.
        """
        for evaluation, value in enumerate(values, start=1):
            rung = self.rung_at(evaluation)
            if rung is not None:
                self.report(trial, rung, value)
        if self.is_paused(trial) and (went_on or self.rung_at(len(values)) is None):
            self.promote(trial)

    @property
    def _ended(self) -> set[str]:
        return self._finished | self._failed | self._left

    def _height(self, trial: str) -> int:
        """How many rungs the trial has come to."""
        if trial not in self._order:
            raise ValueError(f"{trial} is not one of this sweep's trials")
        return sum(trial in rung for rung in self._rungs)

    def _ranked(self, rung: dict[str, float]) -> list[str]:
        return sorted(rung, key=lambda trial: (rung[trial], self._order[trial]))

    def _may_be_promoted(self, trial: str, rung: dict[str, float]) -> bool:
        highest = self._rungs[self._height(trial) - 1]
        return rung is highest and self.is_paused(trial) and math.isfinite(rung[trial])


class TrialScheduler:
    """Who trains next: first come, first served; with halving, promoted trials come before new ones."""

    def __init__(self, trials: Sequence[Trial], halving: SuccessiveHalving | None) -> None:
        self._halving = halving
        self._of = {str(trial.folder): trial for trial in trials}
        self._waiting = [trial for trial in trials if not self.must_wait(trial)]

    def take(self, free: int | None, *, training: int) -> list[Trial]:
        """The next trials, at most `free` (None: all). training: how many have slots now."""
        if free == 0:
            return []
        promoted: list[Trial] = []
        if self._halving is not None:
            names = self._halving.promotable()[:free]
            if not (names or self._waiting or training) and (name := self._halving.best_paused()):
                names = [name]
            for name in names:
                self._halving.promote(name)
                promoted.append(self._of[name])
        count = len(self._waiting) if free is None else free - len(promoted)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return promoted + taken

    def add(self, trial: Trial) -> None:
        """One more trial waits, which another process, or another trial, has begun."""
        self._of[str(trial.folder)] = trial
        if self._halving is not None:
            self._halving.add(str(trial.folder))
            _replay(self._halving, trial)
        if not self.must_wait(trial):
            self._waiting.append(trial)

    def remove(self, trial: Trial) -> None:
        """A trial that waits does not train any more."""
        self._waiting = [other for other in self._waiting if other is not trial]

    def put_back(self, trial: Trial) -> None:
        """A trial gave its slot to others: it waits at its rung, or is the next that gets one."""
        if not self.must_wait(trial):
            self._waiting.insert(0, trial)

    def evaluated(self, values: Mapping[Trial, float]) -> None:
        """Hear what trials gave that were evaluated at one boundary. values: their trainer.best_metric."""
        if self._halving is None:
            return
        for trial, value in values.items():
            rung = self._halving.rung_at(trial.schedule.evaluations_by(trial.state.step))
            if rung is not None:
                self._halving.report(str(trial.folder), rung, value)
        # A trial that may be promoted at once keeps its slot.
        for name in self._halving.promotable():
            if self._of.get(name) in values:
                self._halving.promote(name)

    def ended(self, trial: Trial, status: EndStatus) -> None:
        """A trial trained to its end, failed, or was told to stop."""
        if self._halving is not None:
            _end(self._halving, trial, status)

    def must_wait(self, trial: Trial) -> bool:
        """Whether the trial is paused at a rung, from which it has not been promoted so far."""
        return self._halving is not None and self._halving.is_paused(str(trial.folder))


def halving_of(trials: Sequence[Trial]) -> SuccessiveHalving | None:
    """The halving that a group's config asks for, with what trials of an earlier process reported.

    trials: all of the group's, those that are finished too.
    """
    spec = trials[0].spec
    if spec.sweep.stopping is None or len(trials) == 1:
        return None
    metric = spec.trainer.best_metric
    halving = SuccessiveHalving(
        [str(trial.folder) for trial in trials],
        spec.sweep.reduction_factor,
        spec.sweep.first_rung,
        lower_is_better=metric == "val/loss",
    )
    for trial in trials:
        _replay(halving, trial)
    return halving


def _replay(halving: SuccessiveHalving, trial: Trial) -> None:
    """Take up what a trial's folder says that it has reported."""
    path, metric = trial.folder / METRICS, trial.spec.trainer.best_metric
    if not (trial.resumed and path.is_file()):
        return
    last_step = newest_step(trial.checkpoints)
    values = {
        row["step"]: math.inf if row[metric] is None else float(row[metric])
        for row in read_metrics(path)
        if metric in row and trial.schedule.evaluates_at(row["step"]) and row["step"] <= last_step
    }
    went_on = last_step > max(values, default=0) or last_step == trial.schedule.total_steps
    halving.replay(str(trial.folder), list(values.values()), went_on=went_on)
    if trial.status is not None:
        _end(halving, trial, trial.status)


def _end(halving: SuccessiveHalving, trial: Trial, status: EndStatus) -> None:
    ways = {"completed": halving.finish, "stopped": halving.leave, "failed": halving.fail}
    ways[status](str(trial.folder))
