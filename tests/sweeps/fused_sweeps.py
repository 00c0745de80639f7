"""A sweep from the command line through the launcher, with a stand-in for the training and the report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
import pytest
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper

from summarizer.config.paths import conf_folder
from summarizer.config.schema import TrackingConfig
from summarizer.runs import launch
from summarizer.runs.record import Best, RunRecord
from summarizer.runs.session import Session
from summarizer.sweeps.launcher import Launch
from summarizer.sweeps.resume import resume


def count_up(jobs: Sequence[RunRecord]) -> list[RunRecord]:
    """Each run's value is the number that its folder is called, or 0."""
    values = [float(job.path.name) if job.path.name.isdigit() else 0.0 for job in jobs]
    return [
        RunRecord(folder=job.folder, best=Best(value=value, step=1))
        for job, value in zip(jobs, values, strict=True)
    ]


@dataclass
class Uncalled:
    """What Hydra is asked to call, in the place of `summarizer.run`'s own."""

    session: Session

    def __call__(self, _: object) -> None:
        pytest.fail("the fused launcher trains groups; it does not call Hydra's task function")


@dataclass
class Sweeps:
    """Runs `-m` commands in this process, and keeps what came of them."""

    train: Callable[[Sequence[RunRecord]], list[RunRecord]] = count_up
    groups: list[list[RunRecord]] = field(default_factory=list)
    """As handed to `start`."""
    session: Session = field(default_factory=Session)
    """Of the command under way; each has its own."""
    kept: list[RunRecord] = field(default_factory=list)
    reports: list[Path] = field(default_factory=list)
    confirmed: list[Path] = field(default_factory=list)
    tracked: list[TrackingConfig] = field(default_factory=list)
    """What each report was told of wandb."""
    returns: list[JobReturn] = field(default_factory=list)

    @classmethod
    def stood_in(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sweeps:
        """In an empty folder, with nothing trained and nothing reported until the test ends."""
        made = cls()
        report = ModuleType("summarizer.reports.sweep_report")
        report.report_sweep = made.report  # type: ignore[attr-defined]
        batch = Launch.batch

        def watched(self: Launch, overrides: Any, first_number: int) -> list[JobReturn]:
            returns = batch(self, overrides, first_number)
            made.returns += returns
            return returns

        monkeypatch.setitem(sys.modules, "summarizer.reports.sweep_report", report)
        confirm = ModuleType("summarizer.sweeps.confirm")
        confirm.confirm = made.confirmed.append  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "summarizer.sweeps.confirm", confirm)
        monkeypatch.setattr(launch, "start", made.start)
        monkeypatch.setattr(Session, "keep", lambda _, ended: made.kept.extend(ended))
        monkeypatch.setattr(Launch, "batch", watched)
        # It would compose everything a first time, which is half of what a test here takes.
        monkeypatch.setattr(Sweeper, "validate_batch_is_legal", lambda self, batch: None)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        monkeypatch.chdir(folder)
        return made

    @property
    def jobs(self) -> list[RunRecord]:
        return [job for group in self.groups for job in group]

    def start(self, jobs: Sequence[RunRecord], session: Session) -> list[RunRecord]:
        self.groups.append(list(jobs))
        return self.train(jobs)

    def report(self, sweep: Path, tracking: TrackingConfig) -> None:
        self.reports.append(sweep)
        self.tracked.append(tracking)

    def run(self, *arguments: str) -> None:
        """Returns when the sweep has ended, and raises what it raises."""

        main = hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
        command = ["summarizer", "-m", "hydra/launcher=fused", "hydra.sweep.dir=sweep", *arguments]
        self.session = Session()
        with pytest.MonkeyPatch.context() as patch, self.session.reporting():
            patch.setattr(sys, "argv", command)
            main(Uncalled(self.session))()

    def resume(self, sweep: Path) -> None:
        """As `resume=SWEEP_FOLDER` does."""
        self.session = Session()
        with self.session.reporting():
            resume(sweep, (), self.session)
