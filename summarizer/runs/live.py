"""What is asked of a sweep while it trains, acted on between two steps, so that a killed sweep resumes to the bit.

A stop is a step at which a run ends, written down before the run does. A clone is a folder: its source's newest
checkpoint, metrics and config, with the clone's settings in it, which is there whole or not at all; the clone then
resumes from it as any run does. Either may be killed at any moment, and is what it was on resuming.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from omegaconf import OmegaConf

from summarizer import atomic
from summarizer.console.secrets import masked
from summarizer.errors import ConfigError
from summarizer.runs.folder import claimed
from summarizer.runs.group_records import GroupRecords
from summarizer.runs.preflight import preflight
from summarizer.runs.record import read_configured
from summarizer.runs.requests import (
    REQUESTS,
    Outcome,
    Request,
    answer,
    changed,
    clone_overrides,
    read_requests,
)
from summarizer.tracking.metrics import METRICS
from summarizer.training.checkpoint_folders import list_checkpoints, newest_step, step_of
from summarizer.training.schedule import training_schedule
from summarizer.training.trial import Trial

log = logging.getLogger(__name__)


class LiveRequests:
    """The requests of a sweep, for the runs of one group."""

    def __init__(self, sweep: Path, records: GroupRecords, folders: ExitStack) -> None:
        """folders: holds the claims on the runs' folders, those of clones too."""
        self.sweep, self._records, self._folders = sweep, records, folders
        self._size = -1
        self._of = {os.path.relpath(trial.folder, sweep): trial for trial in records.trials}
        found = read_requests(sweep)
        for request in found.asked:
            outcome = found.outcomes.get(request.id)
            trial = self._of.get(request.run)
            if request.kind == "clone" and outcome is None and request.folder in self._of:
                # Killed between the clone and this line.
                answer(
                    sweep, Outcome(done=request.id, step=newest_step(self._of[request.folder].checkpoints))
                )
            if request.kind == "stop" and outcome and outcome.step is not None and trial is not None:
                trial.stop_at = outcome.step

    def new(self) -> Iterator[tuple[Request, Trial]]:
        """Requests of this group's runs that nothing became of yet."""
        try:
            size = os.lstat(self.sweep / REQUESTS).st_size
        except OSError:
            return
        if size == self._size:
            return
        self._size = size
        try:
            pending = read_requests(self.sweep).pending
        except ConfigError as error:
            log.warning("requests are not taken: %s", error)
            return
        for request in pending:
            if (trial := self._of.get(request.run)) is not None:
                yield request, trial

    def done(self, request: Request, step: int) -> None:
        answer(self.sweep, Outcome(done=request.id, step=step))

    def refuse(self, request: Request, trial: Trial, reason: str) -> None:
        """Say why a request is not followed."""
        trial.say(logging.WARNING, "%s is not done: %s", request.kind, reason)
        answer(self.sweep, Outcome(done=request.id, refused=reason[:1000]))

    def clone(self, request: Request, source: Trial) -> Trial:
        """A trial that resumes from its source's newest checkpoint, at other settings.

        Raises ConfigError where it cannot be, OSError where it cannot be written.
        """
        assert request.folder is not None
        config = changed(self._records[source].config, request.overrides)
        spec = preflight(OmegaConf.create(config), imported=True)
        schedule = training_schedule(spec.trainer, source.schedule.steps_per_epoch)
        step = newest_step(source.checkpoints)
        if schedule.total_steps < step:
            text = f"{schedule.total_steps} steps are asked for, and the run has taken {step}"
            raise ConfigError.single("clone", text)
        path = self.sweep / request.folder
        if os.path.lexists(path):
            raise ConfigError.single("clone", f"{path} is there already")
        with atomic.new_folder(path) as scratch:
            (scratch / ".hydra").mkdir()
            overrides = clone_overrides(self._records[source].overrides, request.overrides)
            files = {"config": masked({"": config})[""], "overrides": list(overrides)}
            for name, node in files.items():
                text = OmegaConf.to_yaml(OmegaConf.create(node))
                (scratch / ".hydra" / f"{name}.yaml").write_text(text, encoding="utf-8")
            if step:
                shutil.copy(source.folder / METRICS, scratch / METRICS)
                (checkpoint,) = [one for one in list_checkpoints(source.checkpoints) if step_of(one) == step]
                shutil.copytree(checkpoint, scratch / "checkpoints" / checkpoint.name)
        record = read_configured(path).model_copy(update={"sweep": self._records[source].sweep})
        self._folders.enter_context(claimed(path))
        trial = self._records.add(record, spec)
        trial.rows, trial.schedule = source.rows, schedule
        self._of[request.folder] = trial
        self.done(request, step)
        return trial


def live_requests(records: GroupRecords, folders: ExitStack) -> LiveRequests | None:
    """Of the sweep that a group is of; None for a run of no sweep."""
    first = records[records.trials[0]]
    for parent in first.path.absolute().parents:
        if first.sweep is not None and parent.name == first.sweep:
            return LiveRequests(parent, records, folders)
    return None
