"""`sweep.json`: the plan of a sweep while it runs, and its results, ranked, at any time after.

What a run has come to is read from the run's own folder each time; of `sweep.json` only the plan is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from summarizer.errors import ConfigError, Issue
from summarizer.records import Part, read_part, write_part
from summarizer.sweeps.references import Reference, collect_references
from summarizer.sweeps.result import Metric, RunResult, read_result
from summarizer.tracking.names import redact

FILE_NAME = "sweep.json"

LISTED = ("completed", "stopped", "running", "waiting", "failed")
"""The order in which a table lists runs."""

LIMITS = ("trainer.epochs", "trainer.max_steps", "experiment")
"""Keys that may set how many steps a run asks for, and may differ within a group."""


@dataclass(frozen=True)
class PlannedRun:
    """One run that a sweep is to make."""

    folder: str
    """Its path below the sweep folder."""
    overrides: tuple[str, ...]
    group: int
    """Runs of one number may train together."""


class SweepRecord(Part):
    """A sweep. Null is what cannot be told, since it depends on runs that have not begun."""

    metric: Metric
    runs: tuple[RunResult, ...]
    """In the order planned; `ranked` has them in the order of a table."""
    samples: int | None = None
    """Examples trained on by all runs together, repeats counted: steps times batch size."""
    full_grid_samples: int | None = None
    """The same if no run had been stopped; what failed would have failed there too."""
    saved_samples: int | None = None
    """What successive halving left out of the full grid."""
    tokens: int | None = None
    references: tuple[Reference, ...] = ()
    """What the runs are measured by; it has no rank among them."""

    def ranked(self) -> list[RunResult]:
        """Completed runs from best to worst, then stopped ones likewise, running, waiting and failed ones."""
        return sorted(self.runs, key=self._place)

    @property
    def winner(self) -> RunResult | None:
        """The run of rank 1, which has not trained to its end if none has."""
        return next((run for run in self.ranked() if run.rank == 1), None)

    def _place(self, run: RunResult) -> tuple[int, bool, float]:
        cost = 0.0 if run.best is None else self.metric.cost(run.best.value)
        return LISTED.index(run.status), run.best is None, cost


def begin(sweep: Path, runs: Sequence[PlannedRun], metric: str) -> None:
    """Write the plan, or add to the one there: a sweeper launches batch after batch, a resumed sweep the rest.

    metric: `trainer.best_metric`.
    Raises ConfigError, leaving the plan as it was, where a folder lies outside the sweep's or is another run's.
    """
    old = read_record(sweep) if (sweep / FILE_NAME).exists() else None
    known = {run.folder: run for run in old.runs} if old else {}
    issues = []
    if old and old.metric.name != metric:
        text = f"{metric}: the runs in {sweep} are ranked by {old.metric.name}; give another hydra.sweep.dir"
        issues.append(Issue("trainer.best_metric", text))
    for run in runs:
        overrides = tuple(map(redact, run.overrides))
        if run.folder in known and known[run.folder].overrides != overrides:
            text = f"{run.folder} is taken by a run with {' '.join(known[run.folder].overrides)}"
            issues.append(Issue("hydra.sweep.subdir", f"{text}; give each run a folder of its own"))
            continue
        try:
            planned = RunResult(folder=run.folder, overrides=overrides, group=run.group)
        except ValidationError as error:
            issues += [Issue("hydra.sweep.subdir", mistake["msg"]) for mistake in error.errors()]
            continue
        before = known.get(run.folder, planned)
        known[run.folder] = before.model_copy(update={"group": run.group})
    if issues:
        raise ConfigError(issues)
    write_record(sweep, SweepRecord(metric=Metric.of(metric), runs=tuple(known.values())))


def read_record(sweep: Path) -> SweepRecord:
    """The record in a sweep folder, which may come from elsewhere.

    Raises ConfigError if it is missing, broken, names a run twice or a folder outside the sweep's.
    """
    path = sweep / FILE_NAME
    record = read_part(path, SweepRecord, "sweep")
    folders = [run.folder for run in record.runs]
    issues = [
        Issue(f"{path}: runs.{number}.folder", text)
        for number, folder in enumerate(folders)
        for text, wrong in (
            (f"{folder} is another run's too", folder in folders[:number]),
            (f"{folder} leads outside the sweep folder", not _inside(sweep, folder)),
        )
        if wrong
    ]
    if issues:
        raise ConfigError(issues)
    return record


def write_record(sweep: Path, record: SweepRecord) -> None:
    """Replace sweep.json in one step. Raises OSError, leaving the old file as it was."""
    write_part(sweep / FILE_NAME, record)


def collect(sweep: Path) -> SweepRecord:
    """The sweep as its run folders tell it now, ranked; writes nothing.

    Raises ConfigError with every file that is broken.
    """
    plan = read_record(sweep)
    runs: list[RunResult] = []
    issues: list[Issue] = []
    for planned in plan.runs:
        try:
            runs.append(read_result(sweep, planned, plan.metric))
        except ConfigError as error:
            issues += error.issues
    if issues:
        raise ConfigError(issues)
    runs = [_with_planned_steps(run, runs) for run in runs]
    unranked = SweepRecord(metric=plan.metric, runs=tuple(runs))
    full_grid = _total([_in_full_grid(run) for run in runs])
    halved = [run for run in runs if run.ended_by == "successive_halving"]
    would_be, were = _total([_in_full_grid(run) for run in halved]), _total([run.samples for run in halved])
    return SweepRecord(
        metric=plan.metric,
        runs=_with_ranks(unranked),
        samples=_total([run.samples for run in runs]),
        full_grid_samples=full_grid,
        saved_samples=None if would_be is None or were is None else would_be - were,
        tokens=sum(run.tokens or 0 for run in runs),
        references=collect_references(sweep, runs, plan.metric),
    )


def _with_ranks(record: SweepRecord) -> tuple[RunResult, ...]:
    """Equal values share a rank."""
    places = sorted(
        record._place(run) for run in record.runs if run.best and run.status in ("completed", "stopped")
    )
    return tuple(
        run.model_copy(update={"rank": places.index(record._place(run)) + 1})
        if record._place(run) in places
        else run
        for run in record.runs
    )


def _with_planned_steps(run: RunResult, runs: Sequence[RunResult]) -> RunResult:
    """A run that has not begun asks for as many steps as the others of its group whose limits are its own."""
    alike = [
        other.planned_steps
        for other in runs
        if other.group == run.group and _limits(other) == _limits(run) and other.planned_steps
    ]
    if run.planned_steps is not None or not alike:
        return run
    return run.model_copy(update={"planned_steps": alike[0]})


def _limits(run: RunResult) -> set[str]:
    """Its overrides that say how long it trains; all else that does so is shared by a group."""
    return {text for text in run.overrides if text.lstrip("+").partition("=")[0] in LIMITS}


def _in_full_grid(run: RunResult) -> int | None:
    """Examples that the run would have trained on if nothing had stopped it."""
    if run.status in ("completed", "failed"):
        return run.samples
    if run.planned_steps is None or run.batch_size is None:
        return None
    return run.planned_steps * run.batch_size


def _total(parts: Sequence[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _inside(sweep: Path, folder: str) -> bool:
    """Whether it still lies inside when links are followed."""
    return (sweep / folder).resolve().is_relative_to(sweep.resolve())
