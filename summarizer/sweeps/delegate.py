"""`hydra.launcher.delegate`: another launcher (joblib, submitit, Ray) takes each group of a sweep as one job.

A job that is started again, since its machine was lost or its time was up, goes on with its group from the
checkpoints in the runs' folders.
"""

from __future__ import annotations

import copy
import io
import logging
import os
import pickle
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import env_override
from hydra.errors import ConfigCompositionException
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from summarizer.config.overrides import quoted
from summarizer.console.secrets import masked
from summarizer.errors import ConfigError, Issue, StopRequested, suggestion
from summarizer.runs.folder import claimed
from summarizer.runs.launch import prepare_process, train_group
from summarizer.runs.record import RunRecord, read_configured
from summarizer.runs.session import Session
from summarizer.sweeps.compose import group_logs, read_combination
from summarizer.sweeps.record import read_sweep
from summarizer.tracking.metrics import METRICS

PACKAGES = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "rq": "hydra-rq-launcher",
}
"""What pip calls the launchers that Hydra's own documentation lists."""
GROUPS_FOLDER = ".groups"
"""In the sweep folder: what the other launcher writes of its jobs."""
KEY = "hydra.launcher.delegate"
LOST_LOCKS_S = 120.0
"""How long a job that is started again waits for the folders of its runs.

A file server holds the locks of a machine that is gone until its lease ends: 90 s by Linux's default for NFS
(/proc/fs/nfsd/nfsv4leasetime)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupTask:
    """What the other launcher runs as each of its jobs, perhaps on another machine; it pickles this."""

    groups: tuple[tuple[str, ...], ...]
    """Run folders, by the number of the launcher's job."""
    sweep: str
    """The sweep folder, which all machines find under this path."""

    def __call__(self, _: DictConfig) -> tuple[list[RunRecord], int | None]:
        """How each run ended, and the signal that stopped them all before."""
        prepare_process()
        folders = self.groups[HydraConfig.get().job.num]
        combinations = [read_combination(Path(folder), Path(self.sweep).name) for folder in folders]
        with group_logs(combinations), env_override(combinations[0].config.hydra.job.env_set):
            try:
                ended = train_group(self._begun_before([one.run for one in combinations]), Session())
            except StopRequested as stop:
                return [], stop.signal_number
        # The launcher may write to the disk what comes back.
        return [
            run.model_copy(update={"cause": _portable(run.cause), "config": masked(run.config)})
            for run in ended
        ], None

    def _begun_before(self, runs: Sequence[RunRecord]) -> list[RunRecord]:
        """The runs of a group; where an earlier start of this job had begun with them, to be resumed.

        With clones, which began while they trained there. Raises ConfigError as a sweep that is resumed does.
        """
        if not any((run.path / METRICS).is_file() for run in runs):  # a new sweep's folders have none
            return list(runs)
        log.info("these runs had begun in an earlier start of this job; they go on from their checkpoints")
        for run in runs:
            _wait_until_free(run.path)
        sweep = Path(self.sweep)
        recorded = read_sweep(sweep).runs
        (group,) = {one.group for one in recorded for run in runs if sweep / one.folder == run.path}
        again = [read_configured(sweep / one.folder) for one in recorded if one.group == group]
        return [run.model_copy(update={"sweep": sweep.name}) for run in again]


@dataclass(frozen=True)
class OtherLauncher:
    """A launcher that is there, with the options it is to have."""

    config: DictConfig
    """The command's, with the other launcher in the place of this one."""
    context: HydraContext

    @classmethod
    def find(
        cls, context: HydraContext, config: DictConfig, name: str, options: Mapping[str, Any]
    ) -> OtherLauncher:
        """Raises ConfigError where it is not installed, knows an option by another name, or cannot join in."""
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            text = f"{name} starts processes of its own, those of torchrun could not join them; leave out one"
            raise ConfigError.single(KEY, text)
        node = _node(context.config_loader, config, name)
        if issues := [
            Issue(f"hydra.launcher.options.{key}", f"unknown key{suggestion(key, list(map(str, node)))}")
            for key in options
            if key not in node
        ]:
            raise ConfigError(issues)
        if name == "submitit_slurm" and shutil.which("srun") is None:
            raise ConfigError.single(KEY, f"{name}: there is no Slurm here, srun is not on the PATH")
        try:
            launcher = OmegaConf.merge(node, dict(options))
        except OmegaConfBaseException as error:
            raise ConfigError.single("hydra.launcher.options", str(error).splitlines()[0]) from error
        merged = copy.deepcopy(config)
        with read_write(merged), open_dict(merged):
            merged.hydra.launcher = launcher
        # Callbacks are told of runs, not of groups: one that does nothing stands for all of them.
        other = cls(merged, HydraContext(context.config_loader, callbacks=Callback()))  # type: ignore[arg-type]
        other._launcher(GroupTask((), ""))
        return other

    def run(self, groups: Sequence[Sequence[str]]) -> list[list[RunRecord]]:
        """Have each group (run folders, prepared) run as a job; returns how the runs of each ended.

        Raises StopRequested where a job was stopped.
        """
        sweep = os.path.abspath(self.config.hydra.sweep.dir)
        launcher = self._launcher(GroupTask(tuple(map(tuple, groups)), sweep))
        own_folder = [f"hydra.sweep.dir={quoted(os.path.join(sweep, GROUPS_FOLDER))}"]
        # Its folder is named after the first run of the group, since a sweeper may launch batch after batch.
        names = [os.path.relpath(folders[0], sweep).replace(os.sep, "_") for folders in groups]
        returns = launcher.launch([[*own_folder, f"hydra.sweep.subdir={quoted(name)}"] for name in names], 0)
        results: list[list[RunRecord]] = []
        signals = []
        for folders, job in zip(groups, returns, strict=True):
            try:
                with redirect_stderr(io.StringIO()):  # where Hydra names the job's overrides, which are ours
                    ended, signal_number = job.return_value
            except Exception as error:  # whatever the job raised: a failed one's value raises it
                results.append([RunRecord(folder=folder, cause=error) for folder in folders])
                continue
            results.append(ended)
            signals += [signal_number] if signal_number is not None else []
        if signals:
            raise StopRequested(signals[0])
        return results

    def _launcher(self, task: GroupTask) -> Launcher:
        return Plugins.instance().instantiate_launcher(self.context, task, self.config)


def _wait_until_free(folder: Path) -> None:
    """Return once no process holds the folder, or at last all the same: who begins with it then says who does."""
    until_s = time.monotonic() + LOST_LOCKS_S
    while time.monotonic() < until_s:
        with suppress(ConfigError), claimed(folder):
            return
        time.sleep(1.0)


def _node(loader: ConfigLoader, config: DictConfig, name: str) -> DictConfig:
    """The config of a launcher. Raises ConfigError where there is none of the name."""
    if name == "fused":
        raise ConfigError.single(KEY, "fused is the launcher that makes the groups; give another, or null")
    try:
        other = loader.load_configuration(
            config.hydra.job.config_name, [f"hydra/launcher={quoted(name)}"], run_mode=RunMode.MULTIRUN
        )
    except ConfigCompositionException as error:
        known = sorted(loader.get_group_options("hydra/launcher"))
        if package := PACKAGES.get(name):
            text = f"{name} is not installed: pip install {package}"
        else:
            text = f"{name!r} is no launcher; there are {', '.join(n for n in known if n != 'fused')}"
        raise ConfigError.single(KEY, text) from error
    node = other.hydra.launcher
    assert isinstance(node, DictConfig)
    OmegaConf.set_struct(node, False)  # what a launcher keeps open, such as what Ray starts with, stays so
    return node


def _portable(error: Exception | None) -> Exception | None:
    """The error, or its text where it cannot cross to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a library's error does when it is pickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
