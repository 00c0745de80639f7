"""A sweep's table and pictures as one wandb run beside the runs of its group.

Everything in it is in the sweep folder too, so nothing that wandb does or fails to do ends a sweep.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from summarizer.config.paths import shown
from summarizer.config.schema import TrackingConfig
from summarizer.tracking.login import agent_sweep, identity_of
from summarizer.tracking.names import MAX_CHARACTERS
from summarizer.tracking.wandb_run import private_settings

ID_FILE = "wandb_sweep_id.txt"
JOB_TYPE = "sweep"

Cell = str | int | float | None

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepTable:
    """A sweep as wandb shows it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    pictures: Mapping[str, Path]
    """PNG files by name."""
    summary: Mapping[str, Cell]


def log_sweep(spec: TrackingConfig, sweep: Path, contents: SweepTable) -> bool:
    """Log a sweep to a wandb run whose files go below the sweep folder; again, to the same wandb run.

    The group is that of the sweep's runs: `spec.group`, or the sweep folder's name.
    Returns whether it was logged; a failure is a warning in the log.
    """
    if spec.mode == "disabled" or agent_sweep():  # an agent's environment would put it into the agent's run
        return False
    try:
        place = _log(spec, sweep, contents)
    except Exception as error:
        # No server, a full disk, a dead service: the sweep's results are in its folder.
        log.warning(
            "wandb did not get the sweep's table and pictures (%s: %s); they are in %s",
            *(type(error).__name__, error, shown(sweep)),
        )
        return False
    log.info("the sweep in wandb: %s", place)
    return True


def _log(spec: TrackingConfig, sweep: Path, contents: SweepTable) -> str:
    import wandb

    group = spec.group or sweep.resolve().name
    identity = identity_of(spec, sweep / ID_FILE, resumed=True)
    run = wandb.init(
        mode=spec.mode,
        dir=sweep,
        project=identity.project,
        entity=identity.entity,
        name=f"sweep {group}"[:MAX_CHARACTERS],
        group=group,
        job_type=JOB_TYPE,
        tags=spec.tags,
        id=identity.id,
        resume="allow",
        reinit="create_new",
        settings=private_settings(),
    )
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
