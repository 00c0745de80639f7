"""Slurm on this machine: a controller and two nodes, the processes of each of which end at once when it is killed.

    python experiments/clusters/slurm_here.py python -m summarizer.run -m ... hydra.launcher.delegate=submitit_slurm

runs a command with the cluster at hand and takes it down after. Needs Debian's packages slurmctld, slurmd, munge
and slurm-client, and root: a node is a PID namespace, whose first process takes all others with it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "unshare")
OVERRIDES = ("hydra.launcher.delegate=submitit_slurm", "hydra.launcher.options={timeout_min: 30}")
NODES = ("node1", "node2")
PORT = 17017
"""The controller's; the nodes have those after it."""
START_S = 30.0
CONF = """\
ClusterName=here
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={spool}/munge,cred_expire=20
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/task_prolog
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
SlurmdTimeout=10
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={spool}/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
"""JobRequeue: a job whose node is lost goes back into the queue, where it waits for cred_expire (by default 120 s).
SlurmdTimeout: a node that has not answered for so many seconds is lost; by default 300.  Source: slurm.conf(5)."""


def missing() -> str | None:
    """Why there can be no Slurm here, or None."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if lacking:
        needed = "apt-get install slurmctld slurmd munge slurm-client"
        return f"{', '.join(lacking)} not found: {needed}"
    if os.geteuid() != 0:
        return "root is needed to start nodes of Slurm"
    namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "true"]
    if subprocess.run(namespace, capture_output=True).returncode:
        return "this system lets nobody make a PID namespace, which a node is"
    return None


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


@dataclass(frozen=True)
class Slurm:
    """A cluster that runs."""

    folder: Path
    nodes: Mapping[str, subprocess.Popen[bytes]]

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs in its environment to find the cluster."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _path()}

    def kill(self, node: str) -> None:
        """SIGKILL for everything that runs on a node, at once, since `unshare` takes its namespace with it."""
        self.nodes[node].kill()
        self.nodes[node].wait()


@contextmanager
def cluster(folder: Path, clocks_ahead_s: Mapping[str, float] | None = None) -> Iterator[Slurm]:
    """Two nodes of one CPU each, until the block ends.

    folder: of the cluster's own files, which no other cluster uses.
    clocks_ahead_s: nodes whose jobs see a clock that is so far ahead, by libfaketime (Debian's package faketime).
    Slurm's own processes do not: its credentials allow for no more than minutes.
    Raises RuntimeError where the nodes do not come up; the logs are in the folder.
    """
    (folder / "munge").mkdir(parents=True)
    (folder / "munge").chmod(0o700)
    (folder / "state").mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    nodes = "\n".join(
        f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={PORT + number} CPUs=1 State=UNKNOWN"
        for number, name in enumerate(NODES, 1)
    )
    # Sockets lie there, whose paths have at most 107 characters.
    spool = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, spool=spool, port=PORT, nodes=nodes))
    prolog = folder / "task_prolog"
    prolog.write_text(
        "#!/bin/sh\n" + "".join(_clock(node, ahead_s) for node, ahead_s in (clocks_ahead_s or {}).items())
    )
    prolog.chmod(0o755)
    names = {"key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{option}={folder / 'munge' / name}" for option, name in names.items()]
    munge.append(f"--socket={spool / 'munge'}")
    started: dict[str, subprocess.Popen[bytes]] = {}
    made = Slurm(folder, started)
    with ExitStack() as stack, (folder / "daemons.log").open("wb") as said:
        stack.callback(shutil.rmtree, spool, ignore_errors=True)

        def start(*command: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                command, env=made.environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
            stack.callback(_end, process)
            return process

        start("munged", "--foreground", "--force", *munge)
        _wait_for((spool / "munge").exists)
        start("slurmctld", "-D")
        for name in NODES:
            (spool / name).mkdir()
            namespace = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
            started[name] = start(*namespace, "slurmd", "-D", "-N", name)
            stack.callback(started[name].kill)  # `unshare` passes no other signal on
        _wait_for(lambda: _idle(made) == len(NODES))
        yield made


def has_faketime() -> bool:
    return bool(_faketimes())


def _faketimes() -> list[Path]:
    return sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def _clock(node: str, ahead_s: float) -> str:
    """Of the script whose output is the environment of a node's tasks: another clock than the machine's.

    Not that by which waiting is measured, which is each machine's own anyway.
    """
    if not (found := _faketimes()):
        raise RuntimeError("libfaketime not found: apt-get install faketime")
    given = {"LD_PRELOAD": found[0], "FAKETIME": f"+{ahead_s:.0f}s", "FAKETIME_DONT_FAKE_MONOTONIC": 1}
    lines = "".join(f"echo export {name}={value}\n" for name, value in given.items())
    return f'if [ "$SLURMD_NODENAME" = {node} ]; then\n{lines}fi\n'


def _idle(cluster: Slurm) -> int:
    asked = ["sinfo", "--noheader", "--Node", "--format=%T"]
    answer = subprocess.run(asked, env=cluster.environment, capture_output=True, text=True, timeout=60)
    return answer.stdout.split().count("idle")


def _wait_for(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + START_S
    while not holds():
        if time.monotonic() > until_s:
            raise RuntimeError("Slurm does not come up; its logs say why")
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(command: Sequence[str]) -> int:
    if why := missing():
        print(why, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, cluster(Path(folder) / "cluster") as here:
        return subprocess.run(command, env=here.environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
