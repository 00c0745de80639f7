"""`hydra/launcher=ray`: each job is a task of Ray, which starts it again elsewhere when its node is lost.

Hydra's own plugin, hydra-ray-launcher 1.2.2, asks for one old version of cloudpickle, which joblib's later ones
exclude; this does with Ray's public API alone. Hydra looks here on every command: nothing heavy is imported.
"""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

SAVING_S = 120.0
"""How long tasks may take to save when the command is stopped."""


class RayLauncher(Launcher):
    """Hands jobs to a cluster whose nodes have the same files, and the same environment, as this machine."""

    def __init__(
        self,
        address: str | None = None,
        cpus: float = 1,
        gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        retries: int = 3,
    ) -> None:
        self.address = address
        self.options = {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "resources": dict(resources or {}),
            "max_retries": retries,
            "max_calls": 1,  # a process of its own for each job, whose memory is given back
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises ConfigError where Ray is not installed."""
        from summarizer.errors import ConfigError

        if importlib.util.find_spec("ray") is None:
            raise ConfigError.single("hydra/launcher", "ray is not installed: pip install ray")
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Returns what became of each job, in their order: what a job raised, or lost for good, is in its own."""
        import ray

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        own = not ray.is_initialized()
        if own:
            ray.init(address=self.address, logging_level="WARNING")
        task = ray.remote(**self.options)(_run)
        given = self.hydra_context, self.task_function, self.config, Singleton.get_state()
        here = os.getcwd(), dict(os.environ)
        tasks = [
            task.remote(*given, *here, list(overrides), number)
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        ]
        try:
            return [_ended(one) for one in tasks]
        except KeyboardInterrupt:
            for one in tasks:
                ray.cancel(one)  # by SIGINT, on which a run saves
            ray.wait(tasks, num_returns=len(tasks), timeout=SAVING_S)
            raise
        finally:
            if own:
                ray.shutdown()


def _ended(task: Any) -> JobReturn:
    import ray

    try:
        result: JobReturn = ray.get(task)
    except Exception as error:  # a node lost once too often, a job that could not be read, or what it raised
        result = JobReturn()
        result.status, result.return_value = JobStatus.FAILED, error
    return result


def _run(
    context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    singletons: Any,
    folder: str,
    environment: Mapping[str, str],
    overrides: Sequence[str],
    number: int,
) -> JobReturn:
    """A job, in a process of some node: as it would be in the folder and the environment of the command."""
    import ray

    os.chdir(folder)
    for name, value in environment.items():
        os.environ.setdefault(name, value)  # what Ray says itself, such as which GPUs are the task's, holds
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Singleton.set_state(singletons)
    setup_globals()
    job = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(job):
        job.hydra.job.id = ray.get_runtime_context().get_task_id()
        job.hydra.job.num = number
    return run_job(
        hydra_context=context,
        task_function=task_function,
        config=job,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
