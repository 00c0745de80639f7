"""Ray on this machine: a head without work of its own and two nodes, the processes of each of which end at once.

    python experiments/clusters/ray_here.py python -m summarizer.run -m ... hydra.launcher.delegate=ray

runs a command with the cluster at hand and takes it down after. Needs `pip install ray`, and root: a
node is a PID namespace, whose first process takes all others with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PORT = 6390
"""The head's."""
NODES = ("node1", "node2")
START_S = 90.0
OVERRIDES = (
    "hydra.launcher.delegate=ray",
    f"hydra.launcher.options={{address: '127.0.0.1:{PORT}'}}",
)
NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def missing() -> str | None:
    """Why there can be no Ray here, or None."""
    if find_spec("ray") is None:
        return "ray is not installed: pip install ray"
    if os.geteuid() != 0:
        return "root is needed to start nodes that can be killed whole"
    if (
        shutil.which("unshare") is None
        or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode
    ):
        return "this system lets nobody make a PID namespace, which a node is"
    return None


@dataclass(frozen=True)
class Ray:
    """A cluster that runs."""

    folder: Path
    nodes: Mapping[str, subprocess.Popen[bytes]]

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs in its environment: Ray's own notices are not part of what it says."""
        return {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": f"127.0.0.1:{PORT}"}

    def kill(self, node: str) -> None:
        """SIGKILL for everything that runs on a node, at once, since `unshare` takes its namespace with it."""
        self.nodes[node].kill()
        self.nodes[node].wait()


@contextmanager
def cluster(folder: Path, clocks_ahead_s: Mapping[str, float] | None = None) -> Iterator[Ray]:
    """A head and two nodes of one CPU each, until the block ends.

    folder: of the cluster's own files.  clocks_ahead_s: is refused: Ray's own processes do not bear it.
    Raises RuntimeError where the nodes do not come up, with the end of what they said.
    """
    if clocks_ahead_s:
        raise RuntimeError("Ray's nodes are started with the machine's clock")
    folder.mkdir(parents=True)
    started: dict[str, subprocess.Popen[bytes]] = {}
    made = Ray(folder, started)
    ray = (sys.executable, "-m", "ray.scripts.scripts")
    # Sockets have short paths: the folder's own may be too long.
    own = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    with ExitStack() as stack, (folder / "daemons.log").open("wb") as said:
        stack.callback(shutil.rmtree, own, ignore_errors=True)

        def start(*words: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [
                    *NAMESPACE,
                    *ray,
                    "start",
                    "--block",
                    "--disable-usage-stats",
                    "--node-ip-address=127.0.0.1",
                    *words,
                ],
                env=made.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)  # `unshare` passes no other signal on
            return process

        memory = ("--object-store-memory", str(100 * 2**20))
        start(
            "--head",
            f"--port={PORT}",
            "--num-cpus=0",
            "--include-dashboard=false",
            f"--temp-dir={own}",
            *memory,
        )
        log = folder / "daemons.log"
        _wait_for(lambda: _alive() >= 1, log)
        for number, name in enumerate(NODES, 1):  # in turn: two would take the same socket's name
            started[name] = start(f"--address=127.0.0.1:{PORT}", "--num-cpus=1", *memory)
            _wait_for(lambda wanted=1 + number: _alive() >= wanted, log)
        yield made


def _alive() -> int:
    """How many nodes have joined, as a process of its own asks: one that has been a driver stays one."""
    code = f"import ray; ray.init('127.0.0.1:{PORT}', logging_level='ERROR')\n"
    code += "print('nodes', sum(one['Alive'] for one in ray.nodes()))"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return int(asked.stdout.split()[-1]) if "nodes" in asked.stdout else 0


def _wait_for(holds: Callable[[], bool], log: Path) -> None:
    until_s = time.monotonic() + START_S
    while not holds():
        if time.monotonic() > until_s:
            said = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"Ray does not come up within {START_S:.0f} s; its nodes said:\n{said}")
        time.sleep(1.0)


def main(command: Sequence[str]) -> int:
    if why := missing():
        print(why, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, cluster(Path(folder) / "cluster") as here:
        return subprocess.run(command, env=here.environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
