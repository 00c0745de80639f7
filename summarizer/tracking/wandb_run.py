"""wandb beside `metrics.jsonl`: a run's numbers, and a sweep's table, side by side with other runs.

wandb is never the only place of anything, so its failure during a run is said once, in the log, and the run
goes on without it. Being unable to open a run online, as the config asks, is an error.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from summarizer import compat
from summarizer.atomic import write_text
from summarizer.config.paths import shown
from summarizer.config.schema import TrackingConfig
from summarizer.console.secrets import masked, masked_text
from summarizer.errors import ConfigError
from summarizer.evaluation.predictions import read_predictions
from summarizer.evaluation.record import VARIANTS
from summarizer.files import read_own
from summarizer.tracking.beside import Beside
from summarizer.tracking.login import agent_sweep
from summarizer.tracking.metrics import (
    METRICS,
    EndStatus,
    SampleSummary,
    Tracker,
    UntilItFails,
    read_metrics,
)
from summarizer.tracking.names import MAX_CHARACTERS
from summarizer.tracking.wandb_log import last_recorded_step

ID_FILE = "wandb_id.txt"
SWEEP_ID_FILE = "wandb_sweep_id.txt"
BEST_OF = {"train/loss": "min", "val/loss": "min"} | {f"val/{name}": "max" for name in VARIANTS}
"""Which value of its history a metric's summary shows, beside the last one."""

log = logging.getLogger(__name__)


# ---- which run of wandb's ----------------------------------------------------------------------------------------

KEPT = re.compile(r"(?:(?P<entity>[\w-]+)/(?P<project>[^/\\#?%:]{1,128})/)?(?P<id>[0-9a-z]{1,64})")
"""What an id file holds: a run's id, and of a run that an agent handed out also the sweep's entity and project."""


@dataclass(frozen=True)
class Identity:
    """Where wandb is to put a run. None is for wandb to fill in."""

    id: str | None
    project: str | None
    entity: str | None


def identity_of(spec: TrackingConfig, file: Path, resumed: bool) -> Identity:
    """The identity of a run: an agent's, the one that `file` keeps of a resumed run, or a new one, kept there.

    Raises ConfigError where the file holds something else.
    """
    if agent_sweep():
        return Identity(None, None, None)  # its environment says all three, and wandb goes by that alone
    if resumed and file.exists():
        kept = read_own(file).decode("utf-8", "replace").strip()
        if not (found := KEPT.fullmatch(kept)):
            raise ConfigError.single(
                str(file), f"{kept[:80]!r} is not a wandb run id; delete the file for a new wandb run"
            )
        return Identity(found["id"], found["project"] or spec.project, found["entity"] or spec.entity)
    # From the system, not from `random`: a run's random state is the same with and without wandb.
    fresh = secrets.token_hex(4)
    write_text(file, fresh + "\n")
    return Identity(fresh, spec.project, spec.entity)


def keep_agents_identity(file: Path, run: Any) -> None:
    """Write down where an agent's run is, so that it can be resumed without the agent. Others are kept already."""
    if agent_sweep():
        place = f"{run.entity}/{run.project}/" if run.entity else ""
        write_text(file, f"{place}{run.id}\n")


def _init(spec: TrackingConfig, folder: Path, identity: Identity, **described: Any) -> Any:
    """Open a wandb run whose files go below a folder, beside any other that this process has open.

    described: its name, group, job type and config, as `wandb.init` takes them. It tells nothing of the machine
    and prints nothing.
    """
    import wandb

    settings = compat.wandb_settings(
        console="off",
        silent=True,
        symlink=False,  # no links to the latest run: a run folder has one
        save_code=False,
        disable_git=True,  # summary.json has the commit; wandb would add the diff
        host="",  # else the machine's name
    )
    return wandb.init(
        mode=spec.mode,
        dir=folder,
        project=identity.project,
        entity=identity.entity,
        id=identity.id,
        tags=[masked_text(tag) for tag in spec.tags],
        resume="allow",
        reinit="create_new",
        settings=settings,
        **described,
    )


# ---- a run -------------------------------------------------------------------------------------------------------


def open_tracker(
    spec: TrackingConfig,
    folder: Path,
    *,
    name: str,
    group: str | None,
    config: Mapping[str, Any],
    resumed: bool,
    beside: Executor | None = None,
) -> Tracker:
    """The run's tracker: wandb's files go below `folder`, and a resumed run goes on in its old wandb run.

    `spec.name` and `spec.group` win over `name` and `group`; an agent's environment wins over the place that
    either names. `config` goes up as it is composed, with *** for what looks secret.
    Several trackers may be open at once. Raises ConfigError if wandb cannot be opened in the mode asked for.
    beside: a thread that opens it, and that all is written by, where it is offline: no server can refuse it then.
    """
    if group and (sweep := agent_sweep()):
        raise ConfigError.single(
            "-m", f"wandb's agent of the sweep {sweep} waits for one run, not for several; leave out -m"
        )
    identity = identity_of(spec, folder / ID_FILE, resumed)
    name = masked_text(spec.name or name)[:MAX_CHARACTERS]
    described = {
        "name": name,
        "group": masked_text(spec.group or group or "") or None,
        "config": masked(config),
    }

    def opened() -> Tracker:
        return _opened(spec, folder, identity, alone=not group, **described)

    if beside is not None and spec.mode == "offline" and not agent_sweep():
        return Beside(beside, "wandb", opened)
    return opened()


def _opened(
    spec: TrackingConfig, folder: Path, identity: Identity, *, alone: bool, **described: Any
) -> WandbTracker:
    import wandb

    recorded = last_recorded_step(folder, identity.id) if identity.id and spec.mode == "offline" else None
    try:
        run = _init(spec, folder, identity, **described)
    except (wandb.Error, OSError) as error:
        raise ConfigError.single(
            "tracking.mode",
            f"{spec.mode}: wandb cannot open a run ({error}); tracking.mode=offline keeps it on disk for "
            "`wandb sync`, tracking.mode=disabled goes without",
        ) from error
    keep_agents_identity(folder / ID_FILE, run)
    if spec.mode == "online":
        recorded = run.starting_step - 1
        log.info("wandb: %s", run.url)
    elif alone:  # a sweep says at its end how to upload all of it
        log.info("wandb is offline: `wandb sync %s` uploads this run", shown(Path(run.settings.sync_dir)))
    return WandbTracker(run, spec, folder, recorded)


class WandbTracker:
    """One open wandb run. Its step is the optimizer step.

    Of a resumed run wandb has the rows through some step already, from a process that was killed. Those are not
    given to it again; what the run has recorded after them and wandb has not, `replay` makes up for.
    """

    def __init__(self, run: Any, spec: TrackingConfig, folder: Path, recorded_through: int | None) -> None:
        """folder: the run folder.  recorded_through: the last step that wandb has; None for none."""
        self._run, self._spec, self._folder = run, spec, folder
        self._wandb_folder = Path(run.settings.sync_dir)
        self._recorded_through = recorded_through
        self._step = 0
        self._has_rows = False
        """Whether this process wrote any: closing none would leave an empty one at step 0."""
        self._values: dict[str, dict[str, float]] = {}
        """The last value, and the best after step 0, of each metric that the base model was measured by too."""
        self._open: set[str] = set()
        """Names of those metrics that have a value in the row which wandb has not closed yet."""
        self._until_it_fails = UntilItFails("wandb", str(self._wandb_folder))
        self._guarded(self._define_metrics)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log a step's metrics. Raises ValueError for a step before the last one, which wandb would drop."""
        self._write(lambda: self._run.log({**metrics, "step": step}, step=step), step)
        self._note(metrics, step)

    def replay(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self.log({name: value for name, value in row.items() if value is not None}, int(row["step"]))

    def log_samples(self, step: int, rows: Sequence[SampleSummary]) -> None:
        columns = ["id", "article", "reference", "base", "prediction"]
        data = [[getattr(row, column) for column in columns] for row in rows]

        def write() -> None:
            import wandb

            self._run.log({"samples": wandb.Table(columns=columns, data=data), "step": step}, step=step)

        self._write(write, step)

    def log_adapter(self, folder: Path) -> None:
        if self._spec.log_adapter:
            self._guarded(lambda: self._log_artifact(folder))

    def finish(self, status: EndStatus, summary: Mapping[str, Any]) -> None:
        """Close the run, one that completed with the table of its predictions.

        A failed one ends with exit code 1, by which wandb marks it failed.
        """
        if status == "completed" and (split := summary.get("split")):
            self._guarded(lambda: self._log_predictions(split))

        def write() -> None:
            if self._has_rows:
                # Closes the row that is open, so that nothing changes the summary after this.
                self._run.log({}, commit=True)
            self._run.summary.update({**summary, "status": status} | self._values | self._best_and_last())
            self._run.finish(exit_code=int(status == "failed"))

        self._guarded(write)

    def _define_metrics(self) -> None:
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        for name, best in BEST_OF.items():  # each by name: of two patterns that fit, wandb takes the first
            self._run.define_metric(name, step_metric="step", summary=f"{best},last")

    def _best_and_last(self) -> dict[str, dict[str, float]]:
        """The best and the last value of each metric of BEST_OF.

        wandb's own best is of step 0 too, which is the untrained base model's, and offline it knows a resumed run's
        values of this process alone.
        """
        metrics = self._folder / METRICS
        if not metrics.exists():
            return {}
        found: dict[str, dict[str, float]] = {}
        rows = read_metrics(metrics)
        for name, best in BEST_OF.items():
            values = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
            trained = [value for step, value in values if step]
            if values:
                of_the_run = {best: {"min": min, "max": max}[best](trained)} if trained else {}
                found[name] = of_the_run | {"last": values[-1][1]}
        return found

    def _log_predictions(self, split: str) -> None:
        import wandb

        file = self._folder / "predictions" / f"{split}.jsonl"
        if not file.exists():
            return
        rows = read_predictions(file)
        base_file = file.with_suffix(".base.jsonl")
        base = {row.id: row.prediction for row in read_predictions(base_file)} if base_file.exists() else {}
        columns = ["id", "reference", "base", "prediction"]
        table = wandb.Table(columns=columns)
        for row in rows[: table.MAX_ROWS]:
            table.add_data(row.id, row.reference, base.get(row.id), row.prediction)
        if len(rows) > table.MAX_ROWS:
            text = (
                "wandb gets the first %d of %d predictions, the most that a table of its takes; all are in %s"
            )
            log.info(text, table.MAX_ROWS, len(rows), shown(file))
        self._run.log({"predictions": table, "step": self._step}, step=self._step)

    def _log_artifact(self, folder: Path) -> None:
        import wandb

        artifact = wandb.Artifact(f"adapter-{self._run.id}", type="adapter")
        # By reference: offline, wandb would otherwise keep a second copy in the user's home.
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder).as_posix()
            artifact.add_file(str(file), name=name, skip_cache=True, policy="immutable")
        self._run.log_artifact(artifact)

    def _write(self, call: Callable[[], None], step: int) -> None:
        """Write what belongs to this step, unless wandb has it."""
        if step < self._step:
            raise ValueError(f"step {step} after step {self._step}")
        is_next, self._step = step > self._step, step
        if self._recorded_through is None or step > self._recorded_through:
            self._has_rows = True
            self._guarded(call)
            if is_next and self._open:
                # That closed the row before, and put wandb's own best into the summary.
                found = {name: dict(self._values[name]) for name in self._open}
                self._open.clear()
                self._guarded(lambda: self._run.summary.update(found))

    def _note(self, metrics: Mapping[str, float], step: int) -> None:
        for name, best in BEST_OF.items():
            value = metrics.get(name)
            if name.startswith("val/") and value is not None and math.isfinite(value):
                values = self._values.setdefault(name, {})
                if step:
                    values[best] = {"min": min, "max": max}[best](values.get(best, value), value)
                values["last"] = value
                self._open.add(name)

    def _guarded(self, call: Callable[[], None]) -> None:
        if isinstance(self._until_it_fails(call), ConnectionError):
            _drop_dead_service()


def _drop_dead_service() -> None:
    """Let the next run of this process start a new wandb service; the dead one served every open run."""
    import wandb

    with contextlib.suppress(ConnectionError):  # it also tries to say goodbye to the dead one
        wandb.teardown()


# ---- a sweep -----------------------------------------------------------------------------------------------------

Cell = str | int | float | None


@dataclass(frozen=True)
class SweepTable:
    """A sweep's table, pictures and summary, as one wandb run beside the runs of its group shows them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    pictures: Mapping[str, Path]
    """PNG files by name."""
    summary: Mapping[str, Cell]


def log_sweep(spec: TrackingConfig, sweep: Path, contents: SweepTable) -> bool:
    """Log a sweep to a wandb run whose files go below the sweep folder; again, to the same wandb run.

    Everything in it is in the sweep folder too, so nothing that wandb does or fails to do ends a sweep. The group
    is that of the sweep's runs: `spec.group`, or the sweep folder's name.
    Returns whether it was logged; a failure is a warning in the log.
    """
    if spec.mode == "disabled" or agent_sweep():  # an agent's environment would put it into the agent's run
        return False
    try:
        place = _log_sweep(spec, sweep, contents)
    except Exception as error:
        # No server, a full disk, a dead service: the sweep's results are in its folder.
        log.warning(
            "wandb did not get the sweep's table and pictures (%s: %s); they are in %s",
            *(type(error).__name__, error, shown(sweep)),
        )
        return False
    log.info("the sweep in wandb: %s", place)
    return True


def _log_sweep(spec: TrackingConfig, sweep: Path, contents: SweepTable) -> str:
    import wandb

    group = masked_text(spec.group or sweep.resolve().name)
    identity = identity_of(spec, sweep / SWEEP_ID_FILE, resumed=True)
    name = f"sweep {group}"[:MAX_CHARACTERS]
    run = _init(spec, sweep, identity, name=name, group=group, job_type="sweep")
    exit_code = 1
    try:
        table = wandb.Table(
            columns=list(contents.columns), data=list(map(list, contents.rows)), allow_mixed_types=True
        )
        run.log({"runs": table} | {name: wandb.Image(str(path)) for name, path in contents.pictures.items()})
        run.summary.update(dict(contents.summary))
        exit_code = 0
    finally:
        run.finish(exit_code=exit_code)
    if spec.mode == "online":
        return str(run.url)
    own, of_runs = (shown(sweep / below / "wandb") + "/offline-run-*" for below in (".", "*"))
    return f"offline; `wandb sync {own} {of_runs}` uploads it and its runs"
