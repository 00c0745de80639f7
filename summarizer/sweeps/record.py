"""`sweep.json`: the plan of a sweep while it runs, and its results, ranked, at any time after.

What a run has come to is read from the run's own folder each time; of `sweep.json` only the plan is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, field_serializer

from summarizer.console.secrets import redact
from summarizer.errors import ConfigError, Issue
from summarizer.evaluation.record import VARIANTS, Rouge
from summarizer.json_files import FiniteOrNull, Part, read_part, write_part
from summarizer.runs.record import (
    IN_SWEEP,
    SUMMARY,
    Best,
    RunRecord,
    read_record,
    read_summary,
)
from summarizer.runs.requests import clone_overrides, read_requests
from summarizer.sweeps.confirmation import Confirmation, read_confirmation
from summarizer.tracking.metrics import METRICS, read_metrics

FILE_NAME = "sweep.json"

LISTED = ("completed", "stopped", "running", "waiting", "failed")
"""The order in which a table lists runs."""

LIMITS = ("trainer.epochs", "trainer.max_steps", "experiment")
"""Keys that may set how many steps a run asks for, and may differ within a group."""


def _is_below(folder: str) -> bool:
    path = PurePosixPath(folder)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and folder.isprintable()


class Metric(Part):
    """What the runs of a sweep are ranked by: `trainer.best_metric`."""

    name: str
    best: Literal["min", "max"]

    @classmethod
    def of(cls, name: str) -> Metric:
        return cls(name=name, best="min" if name == "val/loss" else "max")

    def cost(self, value: float) -> float:
        """The value with the sign by which lower is better."""
        return value if self.best == "min" else -value


def _renamed(system: object) -> object:
    """The base model's name, as earlier versions wrote it."""
    return "base model" if system == "base alone" else system


class Reference(Part):
    """Scores that no run of the sweep trained for. Null is what no run has found out."""

    system: Annotated[Literal["base model", "Lead-3"], BeforeValidator(_renamed)]
    runs: tuple[str, ...]
    """Folders of the runs that it stands beside: runs of other data or another base have others."""
    best: Best | None = None
    """Of the sweep's metric at step 0, on the rows that the runs' best values are of."""
    val_loss: FiniteOrNull = None
    rouge: Rouge | None = None
    split: str | None = None
    rows: int | None = None


class SweepRecord(Part):
    """A sweep. Null is what cannot be told, since it depends on runs that have not begun."""

    metric: Metric
    runs: tuple[RunRecord, ...]
    """In the order planned; `ranked` has them in the order of a table."""
    samples: int | None = None
    """Examples trained on by all runs together, repeats counted: steps times batch size."""
    full_grid_samples: int | None = None
    """The same if no run had been stopped; what failed would have failed there too."""
    saved_samples: int | None = None
    """What successive halving left out of the full grid."""
    tokens: int | None = None
    asked: tuple[str, ...] = ()
    """What was asked of it while it trained and was done, in words."""
    references: tuple[Reference, ...] = ()
    """What the runs are measured by; it has no rank among them."""
    confirmed: Confirmation | None = None
    """The best settings on rows that chose nothing, once all runs have ended."""

    @field_serializer("runs")
    def _rows(self, runs: tuple[RunRecord, ...]) -> list[dict[str, Any]]:
        return [run.model_dump(mode="json", include=set(IN_SWEEP)) for run in runs]

    def ranked(self) -> list[RunRecord]:
        """Completed runs from best to worst, then stopped ones likewise, running, waiting and failed ones."""
        return sorted(self.runs, key=self._place)

    @property
    def winner(self) -> RunRecord | None:
        """The run of rank 1, which has not trained to its end if none has."""
        return next((run for run in self.ranked() if run.rank == 1), None)

    def _place(self, run: RunRecord) -> tuple[int, bool, float]:
        cost = 0.0 if run.best is None else self.metric.cost(run.best.value)
        return LISTED.index(run.status), run.best is None, cost


def begin(sweep: Path, runs: Sequence[RunRecord], metric: str) -> None:
    """Write the plan, or add to the one there: a sweeper launches batch after batch, a resumed sweep the rest.

    runs: waiting; `folder` is the path below the sweep folder.  metric: `trainer.best_metric`.
    Raises ConfigError, leaving the plan as it was, where a folder lies outside the sweep's or is another run's.
    """
    old = read_sweep(sweep) if (sweep / FILE_NAME).exists() else None
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
        if not _is_below(run.folder):
            text = f"{run.folder!r} is not a folder below the sweep folder"
            issues.append(Issue("hydra.sweep.subdir", text))
            continue
        planned = RunRecord(folder=run.folder, overrides=overrides, group=run.group)
        before = known.get(run.folder, planned)
        known[run.folder] = before.model_copy(update={"group": run.group})
    if issues:
        raise ConfigError(issues)
    write_sweep(sweep, SweepRecord(metric=Metric.of(metric), runs=tuple(known.values())))


def read_sweep(sweep: Path) -> SweepRecord:
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
            (f"{folder!r} is not a folder below the sweep folder", not _is_below(folder)),
            (f"{folder!r} leads outside the sweep folder", _is_below(folder) and not _inside(sweep, folder)),
        )
        if wrong
    ]
    if issues:
        raise ConfigError(issues)
    return record.model_copy(update={"runs": (*record.runs, *_clones(sweep, record))})


def _clones(sweep: Path, record: SweepRecord) -> list[RunRecord]:
    """Runs that began as clones of others while the sweep trained, and are not in its file yet."""
    known, clones = {run.folder: run for run in record.runs}, []
    for request in read_requests(sweep).asked:
        source, folder = known.get(request.run), request.folder
        if source is None or folder is None or folder in known or not _inside(sweep, folder):
            continue
        if (sweep / folder / ".hydra" / "config.yaml").is_file():
            overrides = clone_overrides(source.overrides, tuple(map(redact, request.overrides)))
            known[folder] = RunRecord(folder=folder, overrides=overrides, group=source.group)
            clones.append(known[folder])
    return clones


def _asked(sweep: Path) -> tuple[str, ...]:
    found = read_requests(sweep)
    done = [(one, found.outcomes[one.id].step) for one in found.asked if one.id in found.outcomes]
    return tuple(
        f"Run {one.run} was stopped at step {step}, on request."
        if one.kind == "stop"
        else f"Run {one.folder} is a clone: up to step {step} it is run {one.run}, and from there on it has "
        f"{' '.join(map(redact, one.overrides))}."
        for one, step in done
        if step is not None
    )


def write_sweep(sweep: Path, record: SweepRecord) -> None:
    """Replace sweep.json in one step. Raises OSError, leaving the old file as it was."""
    write_part(sweep / FILE_NAME, record)


def collect(sweep: Path) -> SweepRecord:
    """The sweep as its run folders tell it now, ranked; writes nothing.

    Raises ConfigError with every file that is broken.
    """
    plan = read_sweep(sweep)
    runs: list[RunRecord] = []
    issues: list[Issue] = []
    for planned in plan.runs:
        try:
            known = RunRecord(folder=planned.folder, overrides=planned.overrides, group=planned.group)
            runs.append(read_record(sweep / planned.folder, known, plan.metric.name))
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
        runs=tuple(RunRecord(**run.model_dump(include=set(IN_SWEEP))) for run in _with_ranks(unranked)),
        samples=_total([run.samples for run in runs]),
        full_grid_samples=full_grid,
        saved_samples=None if would_be is None or were is None else would_be - were,
        tokens=sum(run.tokens or 0 for run in runs),
        asked=_asked(sweep),
        references=collect_references(sweep, runs, plan.metric),
        confirmed=read_confirmation(sweep),
    )


def _with_ranks(record: SweepRecord) -> tuple[RunRecord, ...]:
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


def _with_planned_steps(run: RunRecord, runs: Sequence[RunRecord]) -> RunRecord:
    """A run that has not begun asks for as many steps as the others of its group whose limits are its own."""
    alike = [
        other.planned_steps
        for other in runs
        if other.group == run.group and _limits(other) == _limits(run) and other.planned_steps
    ]
    if run.planned_steps is not None or not alike:
        return run
    return run.model_copy(update={"planned_steps": alike[0]})


def _limits(run: RunRecord) -> set[str]:
    """Its overrides that say how long it trains; all else that does so is shared by a group."""
    return {text for text in run.overrides if text.lstrip("+").partition("=")[0] in LIMITS}


def _in_full_grid(run: RunRecord) -> int | None:
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


# ---- the untrained systems ---------------------------------------------------------------------------------------


def collect_references(sweep: Path, runs: Sequence[RunRecord], metric: Metric) -> tuple[Reference, ...]:
    """Each once, the bases first. Raises ConfigError where a file of a run's folder is broken."""
    found = [one for run in runs for one in _references(sweep / run.folder, run, metric)]
    found.sort(key=lambda one: (one.system != "base model", one.rouge is None, one.best is None))
    merged: list[Reference] = []
    for one in found:
        place = next((i for i, other in enumerate(merged) if _agree(one, other)), None)
        if place is None:
            merged.append(one)
        else:
            merged[place] = merged[place].model_copy(update={"runs": merged[place].runs + one.runs})
    return tuple(merged)


def _references(folder: Path, run: RunRecord, metric: Metric) -> list[Reference]:
    untrained: Best | None = None
    if (folder / METRICS).is_file():
        rows = read_metrics(folder / METRICS)
        values = [row[metric.name] for row in rows if row["step"] == 0 and row.get(metric.name) is not None]
        untrained = Best(value=values[-1], step=0) if values else None
    summary = read_summary(folder) if (folder / SUMMARY).is_file() else None
    base, lead = (summary.base, summary.baseline) if summary else (None, None)
    of_run: dict[str, Any] = {"runs": (run.folder,), "split": run.split, "rows": run.rows}
    found = []
    if untrained or base:
        scores: dict[str, Any] = {"val_loss": base.val_loss, "rouge": base.rouge} if base else {}
        found.append(Reference(system="base model", best=untrained, **scores, **of_run))
    if lead:
        found.append(Reference(system="Lead-3", rouge=lead, **of_run))
    return found


def _agree(one: Reference, other: Reference) -> bool:
    """Whether they say the same, as far as both say anything: groups measure it anew, to the last digits shown."""
    pairs = zip(_figures(one), _figures(other), strict=True)
    return one.system == other.system and all(a is None or b is None or a == b for a, b in pairs)


def _figures(one: Reference) -> list[str | int | float | None]:
    scores = [one.rouge[name].value if one.rouge else None for name in VARIANTS]
    losses = [one.best.value if one.best else None, one.val_loss]
    return [
        *(one.split, one.rows),
        *(None if value is None else round(value, 2) for value in scores),
        *(None if value is None else round(value, 3) for value in losses),
    ]
