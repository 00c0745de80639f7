"""A batch of a sweep from Hydra's sweeper to its returns: compose, check, prepare, train group after group."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydra.core.utils import (
    JobReturn,
    JobRuntime,
    JobStatus,
    configure_log,
    env_override,
    setup_globals,
)
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from summarizer.config.paths import shown
from summarizer.config.schema import TrackingConfig
from summarizer.console.secrets import redact
from summarizer.errors import ConfigError
from summarizer.runs.advice import normal_form
from summarizer.runs.folder import mask_written, remove_empty_date, take_back
from summarizer.runs.launch import train_group
from summarizer.runs.record import RunRecord
from summarizer.runs.session import Session
from summarizer.sweeps.compose import (
    Combination,
    compose_batch,
    composed_for,
    group_key,
    group_logs,
    grouped,
)
from summarizer.sweeps.delegate import OtherLauncher
from summarizer.sweeps.record import FILE_NAME, begin, read_sweep

TWINS_NAMED = 2
"""Sets of points that are the same run, which are named; of more, their number is said."""

log = logging.getLogger(__name__)


class SweepTask(Protocol):
    """What Hydra was asked to call, as `summarizer.run` has it: it carries what the command's runs share."""

    @property
    def session(self) -> Session: ...
    def __call__(self, config: DictConfig) -> Any: ...


@dataclass(frozen=True)
class Launch:
    """What Hydra hands a launcher, and this one's own two settings."""

    context: HydraContext
    task: SweepTask
    config: DictConfig
    """Of the `-m` command."""
    delegate: str | None = None
    options: Mapping[str, Any] | None = None

    @property
    def sweep(self) -> Path:
        return Path(os.path.abspath(self.config.hydra.sweep.dir))

    def batch(self, overrides: Sequence[Sequence[str]], first_number: int) -> list[JobReturn]:
        """Run every combination of a batch; returns what became of each, in the batch's order.

        Raises ConfigError, nothing being written, where a combination is mistaken; StopRequested once the runs
        that had begun are saved.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        try:
            combinations = compose_batch(self.context.config_loader, self.config, overrides, first_number)
            other = (
                OtherLauncher.find(self.context, self.config, self.delegate, self.options or {})
                if self.delegate
                else None
            )
        except ConfigError:
            if first_number == 0:
                _take_back(self.sweep)
            raise
        _say_twins(combinations)
        groups = grouped([_key(one) for one in combinations])
        self._begin(combinations, groups)
        log.info(
            "sweep of %d runs, in %d group%s that train%s together: %s",
            len(combinations),
            len(groups),
            *(("", "s") if len(groups) == 1 else ("s", "")),
            shown(self.sweep),
        )
        ended: dict[str, RunRecord] = {}
        members = [[combinations[place] for place in places] for places in groups]
        for results in self._run_delegated(members, other) if other else map(self._run, members):
            ended |= {run.folder: run for run in results}
        if not self._optimizing:
            planned = {one.run.folder: ended[one.run.folder] for one in combinations}
            self.task.session.keep(list((planned | ended).values()))
        returns = [self._returned(one, ended[one.run.folder]) for one in combinations]
        self._take_back_plans(combinations, ended)
        return returns

    def _take_back_plans(self, combinations: Sequence[Combination], ended: Mapping[str, RunRecord]) -> None:
        """A plan or a preview that was shown leaves nothing."""
        plans = [one for one in combinations if one.run.only_shown and ended[one.run.folder].cause is None]
        for one in plans:
            take_back(one.run.path)
        if plans and not (self.sweep / FILE_NAME).exists():
            _take_back(self.sweep)

    @property
    def _optimizing(self) -> bool:
        """A sweeper that optimizes must hear of a failure; Hydra's own would only end with it."""
        return not str(self.config.hydra.sweeper._target_).endswith(".BasicSweeper")

    def _begin(self, combinations: Sequence[Combination], groups: Sequence[Sequence[int]]) -> None:
        """Make the runs' folders, and the sweep's record of what is to be trained."""
        mask_written(self.sweep)
        for one in combinations:
            one.prepare(read_back=self.delegate is not None)
        before = 0
        if (self.sweep / FILE_NAME).exists():
            before = 1 + max((run.group for run in read_sweep(self.sweep).runs), default=-1)
        number = {place: before + n for n, places in enumerate(groups) for place in places}
        planned = [
            RunRecord(
                folder=os.path.relpath(one.run.folder, self.sweep),
                overrides=one.run.overrides,
                group=number[place],
            )
            for place, one in enumerate(combinations)
            if not one.run.only_shown
        ]
        if planned:
            begin(self.sweep, planned, combinations[0].run.config["trainer"]["best_metric"])
            tracking = TrackingConfig.model_validate(combinations[0].run.config["tracking"])
            self.task.session.sweeps[self.sweep] = tracking

    def _run(self, group: Sequence[Combination]) -> list[RunRecord]:
        self._tell_begin(group)
        with group_logs(group), env_override(group[0].config.hydra.job.env_set):
            return train_group([one.run for one in group], self.task.session)

    def _run_delegated(
        self, groups: Sequence[Sequence[Combination]], other: OtherLauncher
    ) -> list[list[RunRecord]]:
        for group in groups:
            self._tell_begin(group)
        return other.run([[one.run.folder for one in group] for group in groups])

    def _tell_begin(self, group: Sequence[Combination]) -> None:
        for one in group:
            with composed_for(one.config):
                self.context.callbacks.on_job_start(config=one.config, task_function=self.task)

    def _returned(self, one: Combination, ended: RunRecord) -> JobReturn:
        result = JobReturn()
        result.overrides = one.run.overrides
        result.cfg = one.task
        result.hydra_cfg = OmegaConf.masked_copy(one.config, "hydra")
        result.working_dir = os.getcwd()
        result.task_name = JobRuntime.instance().get("name")
        failed = ended.cause is not None and self._optimizing
        result.status = JobStatus.FAILED if failed else JobStatus.COMPLETED
        result.return_value = ended.cause if failed else ended.best and ended.best.value
        with composed_for(one.config):
            self.context.callbacks.on_job_end(config=one.config, job_return=result)
        return result


def _key(one: Combination) -> tuple[str, str]:
    with composed_for(one.config):
        environment = OmegaConf.to_container(one.config.hydra.job.env_set, resolve=True)
    return group_key(one.run.config), json.dumps(environment, sort_keys=True)


def _say_twins(combinations: Sequence[Combination]) -> None:
    """A grid that names a value twice is a slip, a sweeper that proposes a point twice is not: both are run."""
    folders: dict[str, list[str]] = {}
    for one in combinations:
        folders.setdefault(json.dumps(one.run.config, sort_keys=True), []).append(shown(one.run.path))
    for twins in folders.values():
        if len(twins) > 1:
            log.warning("these runs are configured alike, and all are trained: %s", ", ".join(twins))
    _advise_of_twins(combinations)


def _advise_of_twins(combinations: Sequence[Combination]) -> None:
    """Say which points of a grid are the same run, written in two ways, such as rsLoRA and LoRA of dim 1."""
    same: dict[str, dict[str, Combination]] = {}
    for one in combinations:
        as_typed = json.dumps(one.run.config, sort_keys=True)
        same.setdefault(normal_form(one.run.config), {}).setdefault(as_typed, one)
    common = set(combinations[0].run.overrides).intersection(*(one.run.overrides for one in combinations))
    twins = []
    for alike in same.values():
        names = [[redact(text) for text in one.run.overrides if text not in common] for one in alike.values()]
        if len(names) > 1:
            twins.append(" and ".join(" ".join(own) for own in names))
    for text in twins[:TWINS_NAMED]:
        log.info("advice: twins: %s come to the same run; leave one out", text)
    if (more := len(twins) - TWINS_NAMED) > 0:
        log.info("advice: twins: so do %d more of the grid's points", more)


def _take_back(sweep: Path) -> None:
    """Remove what Hydra's sweeper wrote of a sweep that nothing became of."""
    (sweep / "multirun.yaml").unlink(missing_ok=True)
    with suppress(OSError):  # it holds something else
        sweep.rmdir()
        remove_empty_date(sweep.parent)
