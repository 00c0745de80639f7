"""The groups of a sweep: which runs train together, training them whatever ends one, and the sweep's report."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from summarizer.config.paths import shown
from summarizer.errors import ConfigError, is_full_disk
from summarizer.runs import launch
from summarizer.runs.mistakes import say_failed
from summarizer.runs.record import RunRecord
from summarizer.runs.session import Session

if TYPE_CHECKING:
    from summarizer.config.schema import TrackingConfig

OWN_GROUPS = ("optimizer", "seed", "tracking")
"""Keys that each trial of a group has for itself; of `adapter` it is all but the `_target_`."""
OWN_OF_TRAINER = ("schedule", "max_grad_norm", "epochs", "max_steps", "early_stopping")

log = logging.getLogger(__name__)


def group_key(config: Mapping[str, Any]) -> str:
    """What the runs of a group have in common, of a plain composed config."""
    shared = {name: value for name, value in config.items() if name not in OWN_GROUPS}
    shared["adapter"] = config["adapter"]["_target_"]
    shared["trainer"] = {
        name: value for name, value in config["trainer"].items() if name not in OWN_OF_TRAINER
    }
    return json.dumps(shared, sort_keys=True)


def grouped(keys: Sequence[Hashable]) -> list[list[int]]:
    """The indices of equal keys, in the order of each key's first index."""
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def train_group(records: Sequence[RunRecord], session: Session) -> list[RunRecord]:
    """Train the runs of a group, and say which failed; what stops the group as a whole fails each of them.

    Raises StopRequested, the runs being saved, and the error of a full disk that ended every run: it would end
    those of the next group too.
    """
    try:
        ended = {run.folder: run for run in launch.start(records, session)}
    except Exception as error:
        ended = {record.folder: record.model_copy(update={"cause": error}) for record in records}
    unsaid: dict[int, tuple[Exception, list[str]]] = {}
    for run in ended.values():
        if run.cause is not None and not run.said:
            unsaid.setdefault(id(run.cause), (run.cause, []))[1].append(run.folder)
    for why, folders in unsaid.values():
        say_failed(why, folders)
    causes = [run.cause for run in ended.values()]
    if causes[0] is not None and all(map(is_full_disk, causes)):
        raise causes[0]
    return [ended[record.folder] for record in records]


@dataclass(frozen=True)
class FailuresKept:
    """Within the block, what a run raises is kept by the session, so that the runs after it still come.

    With `keep` False it passes. In a sweep it is said at once, too.
    """

    session: Session
    folder: str
    keep: bool
    sweeping: bool

    def __enter__(self) -> None:
        self.session.runs += 1

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not (self.keep and isinstance(error, Exception)):
            return False
        if self.sweeping:
            say_failed(error, [self.folder])
        self.session.failed.append((self.folder, error))
        return True


@dataclass
class SweepReports:
    """Reports each sweep that was added once, when the block ends: a sweeper may launch batch after batch."""

    due: dict[Path, TrackingConfig] = field(default_factory=dict)
    """The sweeps, and where wandb is to hear of them."""

    def add(self, sweep: Path, tracking: TrackingConfig) -> None:
        self.due[sweep] = tracking

    def __enter__(self) -> SweepReports:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for sweep, tracking in self.due.items():
            if error is None:
                _report(sweep, tracking)
                continue
            try:
                _report(sweep, tracking)
            except (ConfigError, OSError) as failure:  # what ended the sweep is what its user must hear of
                log.error("the sweep's report could not be written: %s", failure)
            log.info("resume with resume=%s", shown(sweep))

    def __getstate__(self) -> dict[str, object]:
        """For a launcher's other processes, which report nothing."""
        return {"due": {}}


def _report(sweep: Path, tracking: TrackingConfig) -> None:
    from summarizer.reports.sweep_report import report_sweep  # it draws, which most commands never do

    report_sweep(sweep, tracking)
