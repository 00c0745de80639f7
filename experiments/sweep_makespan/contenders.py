"""The systems that run a sweep, each as the command that a person types; what each left behind, trial by trial."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import peer_work
from sweep_workload import Grid, Trial

from summarizer.errors import ConfigError
from summarizer.runs.record import SUMMARY, RunRecord, read_summary
from summarizer.sweeps.record import read_sweep

FUSED, ONE_BY_ONE, PROCESSES, PEER = "fused", "one by one", "a process each", "peer"
SYSTEMS = {
    FUSED: "python -m summarizer.run -m ...",
    ONE_BY_ONE: "python -m summarizer.run -m hydra/launcher=basic ...",
    PROCESSES: "python -m summarizer.run ..., once for each trial",
    PEER: "python peer_trial.py ..., once for each trial",
}
INSIDE_OTHERS = ("evaluation of the base", "first step")
"""Parts of a summary's `startup_s` that are evaluation and training."""
ERROR_LINES = 3


@dataclass(frozen=True)
class TrialTime:
    """One trial. Seconds are of the clock on the wall."""

    end_s: float
    """From the command (of the first process) to the trial's summary."""
    startup_s: float
    training_s: float
    """Of all trials that trained at the same time."""
    tokens: int
    val_loss: float | None
    base_loss: float | None
    base_rouge1: float | None
    """In percent."""
    trainable_parameters: int | None
    peak_bytes: int | None
    group: int
    """Trials of one number trained together, and started up together."""


class SweepError(RuntimeError):
    """A command ended with an error, or without a summary of each trial."""


@dataclass(frozen=True)
class Machine:
    """Where the commands run."""

    work: Path
    """Folder of what is prepared: the peer's work, the cache of this project's runs."""
    runs: Path
    """Folder of what runs leave."""
    threads: int | None
    """OMP_NUM_THREADS of every process; None leaves the machine's own number."""

    def run(self, command: Sequence[str], log: Path) -> None:
        """Raises SweepError with the last lines of what it said."""
        environment = {**os.environ, "SUMMARIZER_CACHE": str(self.work / "cache")}
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            # Not from the checkout: there `-m summarizer.run` would find the package without it being installed.
            ended = subprocess.run(
                [sys.executable, *command],
                cwd=self.work,
                env=environment,
                stdout=output,
                stderr=output,
                check=False,
            )
        if ended.returncode != 0:
            said = [
                line
                for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
                if line.strip()
            ]
            raise SweepError(f"exit code {ended.returncode}: {' | '.join(said[-ERROR_LINES:])}")


@dataclass(frozen=True)
class Sweep:
    """What one `-m` command did."""

    times: list[TrialTime]
    """In the order of the grid."""
    command_s: float
    """Until the command had ended."""


def run_sweep(machine: Machine, folder: Path, grid: Grid, overrides: Sequence[str], *, fused: bool) -> Sweep:
    """One `-m` command of this project; fused is what it does by itself. Raises SweepError."""
    launcher = [] if fused else ["hydra/launcher=basic"]
    begun_s = time.time()
    command = ["-m", "summarizer.run", "-m", *launcher, f"hydra.sweep.dir={folder}", *overrides]
    machine.run([*command, *grid.overrides], folder.with_suffix(".log"))
    command_s = time.time() - begun_s
    groups = groups_of(folder) if fused else {}
    runs = [folder / str(number) for number in range(len(grid.trials))]
    times = [time_of(run, begun_s, groups.get(run.name, number)) for number, run in enumerate(runs)]
    return Sweep(times, command_s)


@dataclass
class OwnProcesses:
    """A system with a process for each trial. A longer sweep goes on where the shorter one ended."""

    machine: Machine
    folder: Path
    command: Callable[[Trial, Path], list[str]]
    """Of a trial, with the folder that it is to fill."""
    read: Callable[[Path, float, int], TrialTime]
    times: list[TrialTime] = field(default_factory=list)
    command_s: list[float] = field(default_factory=list)
    """From the first command to the end of each."""

    def run_to(self, trials: Sequence[Trial]) -> None:
        """Run those of these trials that have not run. Raises SweepError."""
        for number, trial in enumerate(trials[len(self.times) :], start=len(self.times)):
            before_s = self.command_s[-1] if self.command_s else 0.0
            run, begun_s = self.folder / str(number), time.time()
            self.machine.run(self.command(trial, run), self.folder.with_suffix(".log"))
            # As if each command had followed at once on the one before it.
            self.times.append(self.read(run, begun_s - before_s, number))
            self.command_s.append(before_s + time.time() - begun_s)


def own_processes(machine: Machine, folder: Path, overrides: Sequence[str]) -> OwnProcesses:
    """This project's, one command after the other."""

    def command(trial: Trial, run: Path) -> list[str]:
        dim, rate = trial
        own = [f"hydra.run.dir={run}", f"adapter.dim={dim}", f"optimizer.lr={rate}"]
        return ["-m", "summarizer.run", *overrides, *own]

    return OwnProcesses(machine, folder, command, time_of)


def peer_processes(machine: Machine, folder: Path, base: str, seed: int) -> OwnProcesses:
    """The peer's, one command after the other."""
    script = str(Path(__file__).with_name("peer_trial.py"))

    def command(trial: Trial, run: Path) -> list[str]:
        dim, rate = trial
        own = ["--base", base, "--dim", str(dim), "--lr", rate, "--seed", str(seed)]
        return [script, str(machine.work), *own, "--begun", repr(time.time()), "--out", str(run)]

    return OwnProcesses(machine, folder, command, peer_time_of)


def time_of(run: Path, begun_s: float, group: int) -> TrialTime:
    """From a run folder. Raises SweepError where the run did not complete."""
    try:
        summary = read_summary(run)
    except ConfigError as error:
        raise SweepError(str(error)) from error
    if summary.status != "completed":
        raise SweepError(f"run {run.name} {summary.status}: {summary.error}")
    return TrialTime(
        end_s=(run / SUMMARY).stat().st_mtime - begun_s,
        startup_s=startup_s(summary),
        training_s=summary.tokens / summary.tokens_per_s if summary.tokens and summary.tokens_per_s else 0.0,
        tokens=summary.tokens or 0,
        val_loss=summary.val_loss,
        base_loss=None if summary.base is None else summary.base.val_loss,
        base_rouge1=summary.base.rouge["rouge1"].value if summary.base and summary.base.rouge else None,
        trainable_parameters=summary.trainable_parameters,
        peak_bytes=summary.peak_memory_bytes,
        group=group,
    )


def startup_s(summary: RunRecord) -> float:
    """Without the evaluation and the training step that a summary's start-up goes on through."""
    parts: dict[str, float] = summary.startup_s or {}
    return sum(seconds for part, seconds in parts.items() if part not in INSIDE_OTHERS)


def peer_time_of(run: Path, begun_s: float, group: int) -> TrialTime:
    """From what a trial of the peer left."""
    file = run / peer_work.RESULT
    result = json.loads(file.read_text(encoding="utf-8"))
    return TrialTime(
        end_s=file.stat().st_mtime - begun_s,
        startup_s=result["parts_s"]["startup"],
        training_s=result["parts_s"]["training"],
        tokens=result["tokens"],
        val_loss=result["val_loss"],
        base_loss=result["base_loss"],
        base_rouge1=result["base_rouge1"],
        trainable_parameters=result["trainable_parameters"],
        peak_bytes=result["peak_bytes"],
        group=group,
    )


def groups_of(sweep: Path) -> dict[str, int]:
    """Number of the group of each run folder. Raises SweepError where nothing was fused."""
    try:
        return {run.folder: run.group for run in read_sweep(sweep).runs}
    except ConfigError as error:
        raise SweepError(f"not run by the fused launcher: {error}") from error
