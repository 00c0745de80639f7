"""Two processes share each batch and give the losses of one, in one folder, however they were started."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from small_runs import TINY, Command

from summarizer.runs.record import read_summary
from summarizer.tracking.metrics import read_metrics

# Seven rows: the last batch has one, so that one process has none.
ARGUMENTS = (*TINY, "data.rows.train=7", "trainer.epochs=1", "optimizer.lr=1e-3", "evaluation.rows=3")


def losses(folder: Path) -> list[float]:
    return [
        value
        for row in read_metrics(folder / "metrics.jsonl")
        for key, value in row.items()
        if key.endswith("/loss")
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    run = [sys.executable, "-m", "summarizer.run", *ARGUMENTS, f"hydra.run.dir={folder}"]
    subprocess.run(run, check=True, capture_output=True, cwd=folder.parent)
    return folder


def assert_as_alone(folder: Path, alone: Path) -> None:
    assert losses(folder) == pytest.approx(losses(alone), rel=1e-5)
    assert len(losses(folder)) == 4 + 2
    now, then = read_summary(folder), read_summary(alone)
    assert now.val_loss == pytest.approx(then.val_loss, rel=1e-5)
    assert now.rouge == then.rouge
    assert now.tokens == then.tokens
    assert (folder / "predictions" / "validation.jsonl").read_text() == (
        alone / "predictions" / "validation.jsonl"
    ).read_text()


@pytest.mark.slow
def test_spawned_by_the_run_itself(tmp_path: Path, alone: Path, command: Command) -> None:
    folder = tmp_path / "run"
    ended = command([*ARGUMENTS, "trainer.processes=2", f"hydra.run.dir={folder}"])
    assert ended.returncode == 0, ended.stderr
    assert "2 processes" in ended.stderr
    assert ended.stderr.count("adapted: 38 layers") == 1
    assert_as_alone(folder, alone)


@pytest.mark.slow
def test_started_by_torchrun(tmp_path: Path, alone: Path) -> None:
    """As `accelerate launch` does it on two GPUs; on a CPU that starts one process whatever it is told."""
    folder = tmp_path / "run"
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "summarizer.run"]
    run = [sys.executable, *launcher, *ARGUMENTS, f"hydra.run.dir={folder}"]
    ended = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert_as_alone(folder, alone)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # no folder of a second rank


@pytest.mark.slow
def test_a_launcher_sweeps_in_two_processes(tmp_path: Path) -> None:
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "-m",
        "summarizer.run",
        "-m",
    ]
    run += [*ARGUMENTS, "adapter.dim=2,3", f"hydra.sweep.dir={tmp_path}/sweep"]
    ended = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert [read_summary(tmp_path / "sweep" / number).status for number in "01"] == ["completed"] * 2


@pytest.mark.slow
def test_a_signal_reaches_all_of_them(tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "run"
    arguments = [*ARGUMENTS, "trainer.epochs=50", "trainer.processes=2", f"hydra.run.dir={folder}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "summarizer.run", *arguments], stderr=subprocess.DEVNULL
    )
    while not (
        (folder / "metrics.jsonl").exists() and '"step": 2,' in (folder / "metrics.jsonl").read_text()
    ):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=90) == 128 + signal.SIGTERM
    assert read_summary(folder).status == "stopped"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_two_nodes_and_one_of_them_is_lost(tmp_path: Path, alone: Path, command: Command) -> None:
    """Two agents of torchrun, as on two machines: the losses of one process, a name for who is killed, a resume."""
    folder, port = tmp_path / "run", free_port()
    agents = []
    for rank in range(2):
        launcher = ["--nnodes", "2", "--node_rank", str(rank), "--nproc_per_node", "1"]
        launcher += ["--master_addr", "127.0.0.1", "--master_port", str(port), "-m", "summarizer.run"]
        run = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *launcher,
            *ARGUMENTS,
            f"hydra.run.dir={folder}",
        ]
        run += ["trainer.checkpoint_every_steps=1"]
        agents.append(subprocess.Popen(run, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    try:
        until_s = time.monotonic() + 240
        while not list(folder.glob("checkpoints/step-00000002")):
            assert time.monotonic() < until_s
            assert all(agent.poll() is None for agent in agents)
            time.sleep(0.02)
        # Of the second agent's children the one that trains; the first agent's is what has the folder.
        (killed,) = [
            child for child in psutil.Process(agents[1].pid).children() if "summarizer.run" in child.cmdline()
        ]
        killed.kill()
        said = [agent.communicate(timeout=120)[0].decode() for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [1, 1]
    named = f"process 1 of 2 (pid {killed.pid} on {socket.gethostname()}) was killed, or its machine is lost"
    assert f"{named}. The run goes on from its last checkpoint" in said[0]
    assert "Connection closed by peer" not in said[0]
    summary = read_summary(folder)
    assert (summary.status, summary.error) == ("failed", f"ProcessLostError: {named}")
    ended = command([f"resume={folder}"])
    assert ended.returncode == 0, ended.stderr
    assert "resuming from step-0000000" in ended.stderr
    assert_as_alone(folder, alone)


@pytest.mark.slow
@pytest.mark.parametrize("asking", [["--cpu", "--num_processes", "2"], ["--config_file", "accelerate.yaml"]])
def test_asked_for_two_and_given_one_is_an_error(asking: list[str], tmp_path: Path) -> None:
    (tmp_path / "accelerate.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nuse_cpu: true\nnum_processes: 2\n"
        "num_machines: 1\nmachine_rank: 0\nmixed_precision: 'no'\n"
    )
    launcher = ["-m", "accelerate.commands.launch", *asking, "-m", "summarizer.run"]
    ended = subprocess.run(
        [sys.executable, *launcher, *ARGUMENTS], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode != 0
    assert "asked for 2 processes but started one" in ended.stderr


def test_a_batch_that_does_not_divide_is_a_mistake(command: Command) -> None:
    ended = command([*ARGUMENTS, "trainer.processes=3"])
    assert ended.returncode == 2
    assert "trainer.batch_size" in ended.stderr


FREED = """
import re
import torch
from summarizer.processes import give_back_freed_memory, keep_freed_memory

def held():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

keep_freed_memory()
tensors = [torch.ones(2**18) for _ in range(256)]  # of 1 MiB
kept = tensors[::2]
before = held()
del tensors
freed = held()
give_back_freed_memory()
print(before - freed, before - held())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    """Between blocks that are in use, too, which nothing at the end of the memory gives back."""
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    while_kept, given_back = map(int, done.stdout.split())
    assert while_kept < 8
    assert given_back > 110  # of 128 MiB


BOUNDED = """
import torch
from summarizer.processes import FreedMemory, allocated_bytes, anonymous_bytes, keep_freed_memory

FreedMemory.SLACK_BYTES, FreedMemory.STEPS_BETWEEN = 32 * 2**20, 3
FreedMemory.SLACK = 0.5  # of 256 MiB: what libraries hold beside what is allocated is 60 alone
keep_freed_memory()
begun, freed = allocated_bytes(), FreedMemory()
tensors = [torch.ones(2**18) for _ in range(256)]  # of 1 MiB
print((allocated_bytes() - begun) // 2**20)
freed.note_use()
del tensors
print(freed.bound())  # no more than it used

def step(others):
    gaps = [torch.ones(2**18) for _ in range(others)]
    del gaps
    freed.note_use()
    return freed.bound()

before = anonymous_bytes()
print(step(0))  # 256 MiB are held, and none of them was used
print((before - anonymous_bytes()) // 2**20 > 200)
print(*(step(256) for _ in range(5)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_holds_little_more_than_its_steps_use() -> None:
    """Given back once, it is left alone for the next steps, however much they leave."""
    done = subprocess.run([sys.executable, "-c", BOUNDED], capture_output=True, text=True, check=True)
    in_use, at_most, too_much, given_back, later = done.stdout.splitlines()
    assert 256 <= int(in_use) < 260
    assert (at_most, too_much, given_back) == ("False", "True", "True")
    assert later == "False False True False False"
