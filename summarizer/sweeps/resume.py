"""`resume=FOLDER`, of a run or of a sweep: what is finished is kept, what is not is resumed or starts."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from summarizer.config.paths import shown
from summarizer.config.schema import TrackingConfig
from summarizer.console.safe_text import one_line
from summarizer.errors import ConfigError, Issue
from summarizer.runs.extend import extended, require_limits
from summarizer.runs.folder import claimed, require_own
from summarizer.runs.launch import start, train_group
from summarizer.runs.logs import folder_logs, log_to_terminal
from summarizer.runs.preflight import preflight
from summarizer.runs.record import RunRecord, is_finished, read_configured, read_record
from summarizer.runs.session import Session, raise_alone
from summarizer.sweeps.add_points import add_points
from summarizer.sweeps.candidates import COMMAND_FILE
from summarizer.sweeps.compose import group_key, grouped, merged
from summarizer.sweeps.record import FILE_NAME, SweepRecord, read_sweep
from summarizer.yaml_files import read_yaml

log = logging.getLogger(__name__)


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep, begun at least."""
    return (folder / FILE_NAME).is_file() or (folder / COMMAND_FILE).is_file()


def resume(folder: Path, others: Sequence[str], session: Session) -> None:
    """Resume what a folder holds: a run to other limits too, a sweep with more points.

    Raises ConfigError for links in it, too.
    """
    require_own(folder, "resume", resumed=True)
    sweep = is_sweep(folder)
    if not sweep:
        _resume_run(folder, others, session)
        return
    resume_sweep(folder, [word for word in others if word not in ("-m", "--multirun")], session)


def _resume_run(folder: Path, others: Sequence[str], session: Session) -> None:
    """others: overrides beside `resume=`, by which the run ends later."""
    require_limits(others)
    record = read_configured(folder.resolve())
    if others:
        record = extended(record, others)
    with folder_logs([str(folder)]):
        if not record.resumed_with and is_finished(folder):
            halved = read_record(folder).ended_by == "successive_halving"
            ended = "was stopped by successive halving" if halved else "is complete"
            log.info("%s %s; there is nothing to resume", folder, ended)
        else:
            raise_alone(start([record], session))


def resume_sweep(folder: Path, others: Sequence[str], session: Session) -> None:
    """Resume a sweep: completed runs and the losers of successive halving are kept.

    others: overrides beside `resume=`, which make its grid larger, as `add_points` has it.
    Runs that failed are tried again from their last checkpoint. The session keeps the failures, and the sweep for
    its report.
    Raises ConfigError, nothing having begun, where the folder or a run's config is missing or mistaken, another
    process runs one of them.
    """
    folder = folder.resolve()
    _require_record(folder)
    log_to_terminal()
    record = read_sweep(folder)
    runs = _configured(folder, record)
    unfinished = {run.folder for run in runs if not is_finished(run.path)}
    _require_idle(unfinished)
    if others:
        add_points(folder, record, runs, others)
        resume_sweep(folder, (), session)
        return
    if not unfinished:
        log.info("all %d runs of %s are finished; there is nothing to resume", len(runs), shown(folder))
    _say_what_is_not_planned(folder)
    session.sweeps[folder] = TrackingConfig.model_validate(runs[0].config["tracking"])
    for places in grouped([group_key(run.config) for run in runs]):
        # Those that are finished too: a halving measures the others by what they reported.
        group = [runs[place] for place in places]
        if resuming := [run.folder for run in group if run.folder in unfinished]:
            with folder_logs(resuming):
                session.keep(train_group(group, session))


def _require_record(folder: Path) -> None:
    if (folder / FILE_NAME).is_file():
        return
    if run := next(folder.glob("*/.hydra/config.yaml"), None):
        text = f"{folder} has no {FILE_NAME}; resume its runs one by one, as resume={run.parents[1]}"
    else:
        text = f"{folder} was stopped before its runs were made; start the sweep again"
    raise ConfigError.single("resume", text)


def _require_idle(folders: Collection[str]) -> None:
    """A sweep that another process trains keeps its report and its runs' logs to itself."""
    for folder in sorted(folders):
        with claimed(Path(folder)):
            pass


def _configured(sweep: Path, record: SweepRecord) -> list[RunRecord]:
    """All runs as they were configured, to be resumed. Raises ConfigError with what is wrong with any of them."""
    runs: list[RunRecord] = []
    found: list[Sequence[Issue]] = []
    for run in record.runs:
        try:
            waiting = read_configured(sweep / run.folder).model_copy(update={"sweep": sweep.name})
            preflight(OmegaConf.create(waiting.config))
        except ConfigError as error:
            found.append(error.issues)
        else:
            found.append(())
            runs.append(waiting)
    if issues := merged(found, [run.overrides for run in record.runs]):
        raise ConfigError(issues)
    return runs


def _say_what_is_not_planned(folder: Path) -> None:
    """Batches that a sweeper had not launched are in no plan."""
    if not (folder / COMMAND_FILE).is_file():
        return
    try:
        command = read_yaml(folder / COMMAND_FILE)
        # By `select`, which resolves what it passes through and nothing else.
        kind, size = (
            OmegaConf.select(command, f"hydra.sweeper.{key}") for key in ("_target_", "max_batch_size")
        )
    except (OSError, ValueError, OmegaConfBaseException) as error:
        log.warning("%s cannot be read: %s", COMMAND_FILE, one_line(str(error)))
        return
    if not str(kind).endswith(".BasicSweeper") or size:
        log.warning(
            "only runs that the sweeper had launched go on; those it would have launched later do not"
        )
