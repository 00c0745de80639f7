"""Which trials of a sweep go on: asynchronous successive halving, its decisions alone.

A trial that comes to a rung pauses there. It goes on where its value is among the best 1 / `reduction_factor` of
all that have come to that rung so far. Source: Li et al. 2018 (arXiv:1810.05934), Algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


class Halving:
    """The rungs, what was reported at each, and who was promoted.

    What is promotable depends on the values reported, not on their order: those that come in at one step boundary
    are all reported before it is asked. A value that is not finite is worse than any other, and its trial is never
    promoted.
    """

    def __init__(
        self, trials: Sequence[str], reduction_factor: int, first_rung: int, *, lower_is_better: bool
    ) -> None:
        """trials: all of the sweep's, by name; of equal values the earlier trial's counts as the better.

        reduction_factor: one of so many goes on; 2 or more.  first_rung: in evaluations; 1 or more.
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

    def promotable(self) -> list[str]:
        """Paused trials that may go on: of the highest rung first, of a rung the best first.

        `promote` takes one out of the list and leaves the others there.
        """
        found = []
        for rung in reversed(self._rungs):
            best = self._ranked(rung)[: len(rung) // self._factor]
            found += [trial for trial in best if self._may_go_on(trial, rung)]
        return found

    def promote(self, trial: str) -> None:
        """The trial goes on to its next rung. Raises ValueError where it is not paused."""
        if not self.is_paused(trial):
            raise ValueError(f"{trial} is not paused and cannot be promoted")
        self._climbing.add(trial)

    def is_paused(self, trial: str) -> bool:
        """Whether it waits at its highest rung. Raises ValueError for an unknown trial."""
        return self._height(trial) > 0 and trial not in self._climbing | self._ended

    def paused(self) -> list[str]:
        """In the order of the trials. What is still here when nothing can go on is stopped."""
        return [trial for trial in self._order if self.is_paused(trial)]

    def finish(self, trial: str) -> None:
        """The trial is trained to its end. What it reported stays, and others are measured by it."""
        self._height(trial)
        self._finished.add(trial)

    def fail(self, trial: str) -> None:
        """The trial diverged or broke off: the worst value of the rung that it was on the way to."""
        if not self.is_paused(trial):
            self.report(trial, self._height(trial), math.inf)
        self._failed.add(trial)

    def last_resort(self) -> str | None:
        """The best paused trial of the highest rung, where without it no trial would come to its end.

        That is where all trials have paused or failed and none is promotable, as in a sweep of fewer trials than
        `reduction_factor`. None otherwise, and where only values are left that are not finite.
        """
        stuck = all(self.is_paused(trial) or trial in self._failed for trial in self._order)
        if not stuck or self.promotable():
            return None
        for rung in reversed(self._rungs):
            for trial in self._ranked(rung):
                if self._may_go_on(trial, rung):
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
        return self._finished | self._failed

    def _height(self, trial: str) -> int:
        """How many rungs the trial has come to."""
        if trial not in self._order:
            raise ValueError(f"{trial} is not one of this sweep's trials")
        return sum(trial in rung for rung in self._rungs)

    def _ranked(self, rung: dict[str, float]) -> list[str]:
        return sorted(rung, key=lambda trial: (rung[trial], self._order[trial]))

    def _may_go_on(self, trial: str, rung: dict[str, float]) -> bool:
        highest = self._rungs[self._height(trial) - 1]
        return rung is highest and self.is_paused(trial) and math.isfinite(rung[trial])
