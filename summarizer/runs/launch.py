"""Where a run's processes come from: this one alone, those of a launcher, or spawned here."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from summarizer.config.paths import shown
from summarizer.errors import ConfigError, RunsFailed, StopRequested
from summarizer.runs.ended import Ended, best_value, say_failed
from summarizer.runs.logs import folder_logs
from summarizer.runs.record import RunRecord, read_configured, records_from_json, records_to_json
from summarizer.tracking.startup import startup

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

WAIT_FOR_JOB = timedelta(days=7)
"""Followers wait while the main process runs whatever comes before their next job."""
GRACE_S = 60.0
"""How long spawned processes may take to save and stop before they are killed."""

log = logging.getLogger(__name__)


@dataclass
class Lead:
    """The main process's side of the hand-over of jobs to the other ranks of a launcher."""

    store: Store | None
    groups: int = 0
    """Handed over so far."""
    runs: int = 0
    """Begun so far, handed over or not."""
    failed: list[tuple[str, BaseException]] = field(default_factory=list)

    def hand_over(self, jobs: Sequence[RunRecord]) -> None:
        """To train as a group; none ends it."""
        if self.store is not None:
            self.store.set(f"job/{self.groups}", records_to_json(jobs))
            self.groups += 1


_lead = Lead(None)


def prepare_process() -> None:
    """What a process that runs jobs needs before it imports torch."""
    # Threads that wait for work spin for a moment only, then sleep: two runs that share two cores lose less to
    # each other, one alone nothing (measured on the embedded model, steps of 800 tokens: two at once 540 ms each
    # instead of 930, one alone 229 ms instead of 240; sleeping at once costs one alone 100 ms). Writing a token is
    # hundreds of short products: ten times the moment saves GPT-J-6B a tenth of its 0.37 s on idle cores, and makes
    # SmolLM2-135M take 0.55 s for 0.14 s on busy ones.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns, at import, of an optional package


def is_follower() -> bool:
    """Whether this process is a launcher's rank above 0, which composes nothing and is told its jobs."""
    return int(os.environ.get("RANK", 0)) > 0 and "WORLD_SIZE" in os.environ


@contextmanager
def lead() -> Iterator[None]:
    """For the block, `start` hands each job to the followers first; at its end they are let go."""
    global _lead
    _lead = Lead(_rendezvous() if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None)
    try:
        yield
    finally:
        _lead.hand_over(())


def follow() -> None:
    """Run each group of jobs that rank 0 hands over, until there is none."""
    from summarizer.runs.experiment import run_group

    store, number = _rendezvous(), 0
    while True:
        store.wait([f"job/{number}"], WAIT_FOR_JOB)
        jobs = records_from_json(store.get(f"job/{number}").decode())
        if not jobs:
            return
        startup().restart()
        raise_alone(run_group(jobs))
        number += 1


def start(jobs: Sequence[RunRecord]) -> list[Ended]:
    """Run jobs that train as one group, in as many processes as there are or as they ask for.

    What is asked of the first here is alike in all of them.
    Returns how each ended. Raises what kept all of them from beginning, and StopRequested once they are saved.
    """
    from summarizer.runs.announce import announce_runs
    from summarizer.runs.preflight import preflight

    _compose_has_ended()
    spec = preflight(OmegaConf.create(jobs[0].config))
    announce_runs(jobs)
    if spec.plan:
        with _importing(jobs):
            from summarizer.runs.show_plan import show_plan

        show_plan(jobs)
        return [Ended(job.folder, None) for job in jobs]
    wanted = spec.trainer.processes
    _require_all_launched()
    launched = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else None
    if launched is None and wanted is not None and wanted > 1:
        return _spawn(jobs, wanted)
    with _importing(jobs):
        from summarizer.runs.experiment import run_group

    startup().lap("imports")
    _lead.hand_over(jobs)
    return run_group(jobs)


@contextmanager
def _importing(jobs: Sequence[RunRecord]) -> Iterator[None]:
    """Show that the block's imports are under way, and those of the optimizers that the jobs' configs name.

    Raises ConfigError where one of those cannot be imported here.
    """
    from summarizer.config.targets import resolve_target
    from summarizer.console.progress import working

    if "transformers" in sys.modules:
        yield
        return
    with working("importing torch, transformers"):
        for optimizer in {str(job.config["optimizer"]["_target_"]): None for job in jobs}:
            resolve_target("optimizer", optimizer)
        yield


def raise_alone(ended: Sequence[Ended]) -> float | None:
    """The value of a run that was started alone. Raises what ended it; of several runs nothing is raised."""
    if len(ended) > 1:
        return None
    if ended[0].error is not None:
        raise ended[0].error
    return ended[0].value


def _compose_has_ended() -> None:
    """The process's first run took it from the command to here; a sweep's later ones begin here."""
    if startup().parts:
        startup().restart()
    else:
        startup().lap("compose")


@dataclass(frozen=True)
class FailuresKept:
    """Within the block, what a run raises is kept for `raise_failures`, so that the runs after it still come.

    With `keep` False it passes. In a sweep it is said at once, too.
    """

    folder: str
    keep: bool
    sweeping: bool

    def __enter__(self) -> None:
        _lead.runs += 1

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not (self.keep and isinstance(error, Exception)):
            return False
        if self.sweeping:
            say_failed(error, [self.folder])
        _lead.failed.append((self.folder, error))
        return True


def keep_failures(ended: Sequence[Ended]) -> None:
    """Of a sweep's runs, for `raise_failures`."""
    _lead.runs += len(ended)
    _lead.failed += [(run.folder, run.error) for run in ended if run.error is not None]


def raise_failures() -> None:
    """Raise what a single run raised; of a sweep, name the runs that failed and why. Does nothing without any."""
    if not _lead.failed:
        return
    if len(_lead.failed) == 1 and _lead.runs == 1:
        raise _lead.failed[0][1]
    lines = [f"{len(_lead.failed)} of the sweep's {_lead.runs} runs failed:"]
    by_error: dict[int, list[str]] = {}
    for folder, error in _lead.failed:
        by_error.setdefault(id(error), []).append(shown(Path(folder)))
    errors = {id(error): error for _, error in _lead.failed}
    for key, folders in by_error.items():
        lines += [f"  {', '.join(folders)}:"] + [f"    {line}" for line in str(errors[key]).splitlines()]
    only_mistakes = all(isinstance(error, ConfigError) for _, error in _lead.failed)
    raise RunsFailed("\n".join(lines), 2 if only_mistakes else 1)


def resume(folder: Path, others: Sequence[str]) -> None:
    """Go on with the run of a folder. Raises ConfigError where other overrides stand beside it."""
    from summarizer.runs.record import is_finished, read_summary

    if others:
        raise ConfigError.single(
            "resume", f"goes on with the run as it was configured; leave out {' '.join(others)}"
        )
    job = read_configured(folder.resolve())
    with folder_logs([str(folder)]):
        if is_finished(folder):
            halved = read_summary(folder).ended_by == "successive_halving"
            ended = "was stopped by successive halving" if halved else "is complete"
            log.info("%s %s; there is nothing to resume", folder, ended)
        else:
            raise_alone(start([job]))


def _rendezvous() -> Store:
    from torch.distributed.rendezvous import rendezvous

    store: Store = next(iter(rendezvous("env://")))[0]
    return store


def _require_all_launched() -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process and does not say so."""
    if "ACCELERATE_MIXED_PRECISION" not in os.environ or "WORLD_SIZE" in os.environ:
        return
    import psutil

    words = psutil.Process(os.getppid()).cmdline()
    for i, word in enumerate(words):
        name, _, value = word.partition("=")
        if name.replace("-", "_") == "__num_processes":
            count = value or (words[i + 1] if i + 1 < len(words) else "1")
            if count.isdigit() and int(count) > 1:
                raise ConfigError.single(
                    "trainer.processes",
                    f"accelerate was asked for {count} processes but started one; use torchrun, or "
                    f"trainer.processes={count} without a launcher",
                )


def _spawn(jobs: Sequence[RunRecord], count: int) -> list[Ended]:
    """Run a group of jobs in `count` processes of this machine; signals reach all of them."""
    from summarizer.console.progress import working

    with working(f"importing torch for {count} processes"):
        from torch.multiprocessing.spawn import ProcessExitedException, start_processes

    from summarizer.training.stopping import listening

    with listening() as stop:
        context = start_processes(
            _worker,
            (records_to_json(jobs), count, _free_port()),
            nprocs=count,
            join=False,
            start_method="spawn",
        )
        passed_on = False
        try:
            while not context.join(timeout=0.2, grace_period=GRACE_S):
                if stop.number is not None and not passed_on:
                    passed_on = True
                    for process in context.processes:
                        if process is not None and process.is_alive():
                            process.terminate()
        except ProcessExitedException as error:
            # By itself once it listens; by the signal while it still starts.
            if stop.number is not None and error.exit_code in (128 + signal.SIGTERM, -signal.SIGTERM):
                raise StopRequested(stop.number) from None
            if error.signal_name is not None:  # it could not say so itself
                raise RunsFailed(
                    f"process {error.error_index} of the run was ended by {error.signal_name}; SIGKILL mostly "
                    "means that the machine ran out of memory",
                    1,
                ) from None
            raise RunsFailed("", error.exit_code) from None
    return [_read_end(job) for job in jobs]


def _worker(rank: int, jobs_text: str, count: int, port: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent passes it on, once
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    prepare_process()
    from summarizer.runs.mistakes import report_mistakes

    jobs = records_from_json(jobs_text)

    def run() -> None:
        with _importing(jobs):
            import torch

            from summarizer.runs.experiment import run_group

        startup().lap("imports")
        torch.set_num_threads(max(1, (os.cpu_count() or count) // count))
        raise_alone(run_group(jobs))

    if rank == 0:
        with folder_logs([job.folder for job in jobs]):
            code = report_mistakes(run, ())
    else:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for the life of the process; rank 0 says it all
        code = report_mistakes(run, ())
    from summarizer.processes import leave_processes

    leave_processes()
    sys.exit(code)


def _read_end(job: RunRecord) -> Ended:
    """How a run of other processes ended, which said so themselves."""
    from summarizer.runs.record import read_summary

    summary = read_summary(job.path)
    error = RunsFailed(summary.error or "", 1) if summary.status == "failed" else None
    return Ended(job.folder, best_value(job), error)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
