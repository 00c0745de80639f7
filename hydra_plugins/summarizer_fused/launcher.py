"""`hydra/launcher=fused`, where Hydra looks for it on every command: nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class FusedLauncher(Launcher):
    """Trains the runs of a sweep that share a base together. The work is done by `summarizer.sweeps.launcher`."""

    def __init__(self, delegate: str | None = None, options: Mapping[str, Any] | None = None) -> None:
        """delegate: the launcher that takes each group as one job, null being this process.  options: its own."""
        self.delegate = delegate
        self.options = dict(options or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from summarizer.runs.session import announce_sweep

        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        # Not resolved: an interpolation in an override may stand for what only a run has.
        typed: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        announce_sweep(typed)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from summarizer.sweeps.launcher import Launch

        task: Any = self.task_function
        launch = Launch(self.hydra_context, task, self.config, self.delegate, self.options)
        return launch.batch(job_overrides, initial_job_idx)
