"""Eight groups of a sweep, handed to two machines by Slurm or Ray: the numbers of one machine, even if one dies.

    python experiments/clusters/measure.py slurm --out experiments/clusters/results/slurm.json
    python experiments/clusters/measure.py ray --out experiments/clusters/results/ray.json

Three sweeps: on one machine, handed out, and handed out with a machine killed as soon as a group on it has saved a
checkpoint in the middle of its training. Exit code 0 where all three hold the same to the last bit; 1 where they do
not; 2 where there can be no such cluster here.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol

import psutil
from same_sweep import differences

from summarizer.runs.folder import LOCK, LOCKS
from summarizer.runs.record import SUMMARY
from summarizer.sweeps.record import FILE_NAME, read_sweep
from summarizer.tracking.environment import git_state, versions
from summarizer.training.checkpoint_folders import list_checkpoints, step_of

SMALL = (
    "data.rows.train=8",
    "data.rows.validation=4",
    "prompt.max_tokens=160",
    "generation.max_new_tokens=6",
    "evaluation.rows_during_training=2",
    "evaluation.bootstrap_samples=50",
    "trainer.precision=fp32",
    "trainer.epochs=2",
    "trainer.evaluate_every_steps=4",
    "trainer.checkpoint_every_steps=1",
)
TRIALS = ("optimizer.lr=1e-3,3e-3",)
"""What the runs of a group differ in."""
GROUPS = ("quantization=int8,nf4", "trainer.batch_size=1,2", "trainer.shuffle=true,false")
KILL_AT = 2
"""The optimizer step from which a group is in the middle of its training."""
LIMIT_S = 900.0
TAIL = 20
"""Lines of a failed command's output that are shown."""
ENGINES = ("slurm", "ray")


class Cluster(Protocol):
    """Two machines, as this machine plays them."""

    @property
    def nodes(self) -> Mapping[str, subprocess.Popen[bytes]]:
        """What each node's processes descend from."""

    @property
    def environment(self) -> dict[str, str]: ...
    def kill(self, node: str) -> None: ...


class Engine(Protocol):
    """A module of this folder: `slurm_here`, `ray_here`."""

    OVERRIDES: tuple[str, ...]
    """By which a sweep is handed to it."""

    def missing(self) -> str | None: ...
    def cluster(
        self, folder: Path, clocks_ahead_s: Mapping[str, float] | None = None
    ) -> AbstractContextManager[Cluster]: ...


def sweep(
    grid: Sequence[str], folder: Path, cluster: Cluster | None, overrides: Sequence[str], kill: bool
) -> dict[str, Any]:
    """Run a sweep to its end; returns what was seen of it.

    kill: one node, once a group that trains there has come to KILL_AT.
    Raises RuntimeError where the command fails, or ended before a node could be killed.
    """
    environment = cluster.environment if cluster else dict(os.environ)
    command = [sys.executable, "-m", "summarizer.run", "-m", *grid, *overrides, f"hydra.sweep.dir={folder}"]
    begun_s, groups, killed = time.monotonic(), {}, {}
    log = folder.with_suffix(".log")
    with log.open("wb") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        try:
            while process.poll() is None and time.monotonic() - begun_s < LIMIT_S:
                time.sleep(0.25)
                if cluster is None or not (folder / FILE_NAME).is_file():
                    continue
                with suppress(OSError, psutil.Error):
                    groups |= _nodes_of_groups(folder, cluster)
                if kill and not killed and (found := _in_the_middle(folder, groups)):
                    cluster.kill(found["node"])
                    killed = found
        finally:
            process.kill()  # it has ended, unless its time was up or this process is stopped
            process.wait()
    if process.returncode or (kill and not killed):
        said_last = "\n".join(log.read_text(errors="replace").splitlines()[-TAIL:])
        raise RuntimeError(f"the sweep ended with {process.returncode}, killed: {killed}\n{said_last}")
    seen: dict[str, Any] = {"wall_s": round(time.monotonic() - begun_s, 1)}
    if cluster:
        seen["last_node_of_each_group"] = [groups.get(number) for number in range(len(groups))]
    if killed:
        seen["killed"] = killed
    return seen


def _nodes_of_groups(folder: Path, cluster: Cluster) -> dict[int, str]:
    """Where the groups train at this moment: the node of the process that holds the lock of a run's folder."""
    holder = {
        int(line.split()[5].rpartition(":")[2]): int(line.split()[4])
        for line in LOCKS.read_text().splitlines()
        if line.split()[1] == "FLOCK"
    }
    at_work = {}
    for run in read_sweep(folder).runs:
        lock = folder / run.folder / LOCK
        pid = holder.get(lock.stat().st_ino) if lock.is_file() else None
        if pid is None or run.group is None:
            continue
        ancestors = {parent.pid for parent in psutil.Process(pid).parents()}
        for name, node in cluster.nodes.items():
            if node.pid in ancestors:
                at_work[run.group] = name
    return at_work


def _in_the_middle(folder: Path, groups: Mapping[int, str]) -> dict[str, Any] | None:
    """A group of which every run has a checkpoint of KILL_AT or later, and none has ended."""
    runs = read_sweep(folder).runs
    for group, node in groups.items():
        members = [folder / run.folder for run in runs if run.group == group]
        if any((member / SUMMARY).exists() for member in members):
            continue
        saved = [list_checkpoints(member / "checkpoints") for member in members]
        if all(saved) and min(step_of(each[-1]) for each in saved) >= KILL_AT:
            return {"node": node, "group": group, "steps": [step_of(each[-1]) for each in saved]}
    return None


def resumed_from(folder: Path, group: int) -> list[str]:
    """What the log of a group's first run says of where it went on."""
    first = next(run.folder for run in read_sweep(folder).runs if run.group == group)
    lines = (folder / first / "run.log").read_text().splitlines()
    return [line for line in lines if "resum" in line or "go on from" in line]


def compare(
    engine: Engine, grid: Sequence[str], work: Path, clocks_ahead_s: Mapping[str, float]
) -> dict[str, Any]:
    """The three sweeps, and what differs in the second and the third from the first."""
    found: dict[str, Any] = {"alone": sweep(grid, work / "alone", None, (), kill=False)}
    for name, kill in (("handed_out", False), ("killed", True)):
        folder = work / name
        with engine.cluster(work / f"{name}-cluster", clocks_ahead_s) as cluster:
            found[name] = sweep(grid, folder, cluster, engine.OVERRIDES, kill=kill)
        found[name]["differences"] = differences(work / "alone", folder)
        if kill:
            found[name]["said"] = resumed_from(folder, found[name]["killed"]["group"])
        wandb = [
            len(list((folder / run.folder).glob("wandb/offline-run-*"))) for run in read_sweep(folder).runs
        ]
        found[name]["wandb_records"] = wandb
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--out", type=Path, help="a JSON file of what was seen")
    parser.add_argument(
        "--work", type=Path, help="an empty folder for the sweeps, which stay; else a temporary one"
    )
    parser.add_argument(
        "--clock-ahead", type=float, default=0.0, metavar="S", help="of the second node, by libfaketime"
    )
    arguments = parser.parse_args()
    engine: Engine = importlib.import_module(f"{arguments.engine}_here")  # type: ignore[assignment]
    if why := engine.missing():
        print(f"no {arguments.engine} here: {why}", file=sys.stderr)
        return 2
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # a node has one CPU; so has the machine that they are compared with
    clocks = {"node2": arguments.clock_ahead} if arguments.clock_ahead else {}
    tracking = "tracking=none" if clocks else "tracking=wandb"  # wandb opens no run under libfaketime
    with tempfile.TemporaryDirectory(prefix="clusters-") as temporary:
        work = (arguments.work or Path(temporary)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        found = compare(engine, [tracking, *SMALL, *TRIALS, *GROUPS], work, clocks)
    found |= {
        "engine": arguments.engine,
        "clock_ahead_s": arguments.clock_ahead,
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "git": git_state(),
        "versions": versions(),
    }
    text = json.dumps(found, indent=2, default=str)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
    return 1 if any(found[name]["differences"] for name in ("handed_out", "killed")) else 0


if __name__ == "__main__":
    sys.exit(main())
