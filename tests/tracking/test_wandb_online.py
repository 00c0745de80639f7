"""Runs as wandb's own programs see them: its client online, `wandb sync`, its reader, its sweep agent.

All of them talk to a server on this machine, which is no more than tests/tracking/wandb_server.py says.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_runs import REPOSITORY, TINY
from wandb_server import ENTITY, KEY, ServedRun, WandbServer, serving

from summarizer.runs.record import read_summary
from summarizer.tracking.metrics import read_metrics
from summarizer.tracking.wandb_log import read_records

HUB_TOKEN = "hf_" + "recognizable" * 3
SMALL = (*TINY, "tracking=wandb", "trainer.checkpoint_every_steps=2", "evaluation.sample_summaries=2")
TIMED = ("train/tokens_per_s", "train/mfu", "train/memory_bytes")
TABLES = ("samples", "predictions")
SWEEP_FILE = REPOSITORY / "experiments" / "dim_lr_sweep" / "wandb_sweep.yaml"

Environment = dict[str, str]


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with serving() as state:
        yield state
    assert state.unknown == []


@pytest.fixture
def environment(server: WandbServer, tmp_path: Path) -> Environment:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    folders = {
        name: str(tmp_path / name) for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")
    }
    server_of = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "HF_TOKEN": HUB_TOKEN}
    # Rows go out at once instead of every 15 s, so that a test can wait for one.
    return (
        kept | folders | server_of | {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "0.2", "OMP_NUM_THREADS": "1"}
    )


def run(arguments: Sequence[str], environment: Environment, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def killed_when(
    reached: Callable[[], bool], arguments: Sequence[str], environment: Environment, folder: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "summarizer.run", *arguments],
        env=environment,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until_s = time.monotonic() + 200
    while not reached():
        assert process.poll() is None, "the run ended before it was to be killed"
        assert time.monotonic() < until_s
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def of_metrics(folder: Path) -> dict[int, dict[str, Any]]:
    """What metrics.jsonl says of each step."""
    rows: dict[int, dict[str, Any]] = {}
    for row in read_metrics(folder / "metrics.jsonl"):
        rows.setdefault(row["step"], {}).update(row)
    return rows


def of_history(history: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What wandb says of each step, each said once, in order, under the run's own names."""
    steps = [row["_step"] for row in history]
    assert steps == sorted(set(steps))
    assert steps == [row["step"] for row in history]
    return {
        row["_step"]: {
            name: value for name, value in row.items() if name[0] != "_" and name.split(".")[0] not in TABLES
        }
        for row in history
    }


def untimed(rows: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {
        step: {name: value for name, value in row.items() if name not in TIMED} for step, row in rows.items()
    }


def best_of(run: ServedRun, folder: Path) -> None:
    """Each best value is the best of metrics.jsonl after step 0, the base's, and the last its last."""
    rows = read_metrics(folder / "metrics.jsonl")
    kinds = {"train/loss": min, "val/loss": min, "val/rouge1": max, "val/rougeLsum": max}
    for name, best in kinds.items():
        values = {row["step"]: row[name] for row in rows if name in row}
        of_the_run = [value for step, value in values.items() if step]
        assert run.summary[name] == {best.__name__: best(of_the_run), "last": of_the_run[-1]}, name


@pytest.mark.slow
def test_a_run_online_is_there_value_by_value(
    server: WandbServer, environment: Environment, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = (
        *SMALL,
        "tracking.mode=online",
        "tracking.tags=[a]",
        f"hydra.run.dir={folder}",
        "optimizer.lr=1e-3",
    )
    out = run(["summarizer.run", *arguments, f"hydra.run.dir={folder}"], environment, tmp_path)
    ((name, served),) = server.runs.items()
    assert f"{server.url}/{ENTITY}/summarizer/runs/{name}" in out
    assert (folder / "wandb_id.txt").read_text().strip() == name
    assert of_history(served.history) == of_metrics(folder)
    assert len(served.history) == 13  # twelve steps after the base
    best_of(served, folder)
    told = read_summary(folder).summary()
    assert len(told) > 20
    assert {key: served.summary.get(key) for key in told} == told
    assert served.exit_codes == [0]
    assert served.told["tags"] == ["a"]

    # The config, nested as it was composed.
    composed = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    for group in ("adapter", "trainer", "evaluation", "generation", "tracking"):
        assert served.config[group] == composed[group], group
    assert served.config["optimizer"]["lr"] == 1e-3

    # Tables and the adapter.
    samples = [json.loads(data) for path, data in served.uploads.items() if "table/samples" in path]
    assert all(table["columns"] == ["id", "article", "reference", "base", "prediction"] for table in samples)
    (predictions,) = (
        json.loads(data) for path, data in served.uploads.items() if "table/predictions" in path
    )
    written = [json.loads(line) for line in (folder / "predictions" / "validation.jsonl").open()]
    base = [json.loads(line) for line in (folder / "predictions" / "validation.base.jsonl").open()]
    assert predictions["columns"] == ["id", "reference", "base", "prediction"]
    assert predictions["data"] == [
        [row["id"], row["reference"], before["prediction"], row["prediction"]]
        for row, before in zip(written, base, strict=True)
    ]
    (adapter,) = (one for one in server.artifacts.values() if one.type == "adapter")
    assert adapter.committed
    weights = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    assert adapter.files["adapter_model.safetensors"] == weights

    # Nothing of the machine, and no key but the one that a login is.
    said = json.dumps([served.told, served.lines, {**served.uploads}], default=bytes.decode)
    assert "host" not in served.told
    assert KEY not in said
    assert HUB_TOKEN not in said


@pytest.mark.slow
def test_a_run_killed_online_goes_on_in_its_wandb_run(
    server: WandbServer, environment: Environment, tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def arrived() -> bool:
        return any(row["step"] >= 5 for one in [*server.runs.values()] for row in one.history)

    # Long enough that the kill comes in its middle, on a fast machine too: 30 passes of 4 steps.
    longer = (*SMALL, "trainer.epochs=30", "tracking.mode=online", f"hydra.run.dir={folder}")
    killed_when(arrived, longer, environment, tmp_path)
    before = len(next(iter(server.runs.values())).history)
    run(["summarizer.run", f"resume={folder}"], environment, tmp_path)
    (served,) = server.runs.values()
    assert served.joined == 1
    assert before < len(served.history) == 121
    assert untimed(of_history(served.history)) == untimed(of_metrics(folder))
    best_of(served, folder)
    assert served.summary["status"] == "completed"


@pytest.mark.slow
def test_a_run_killed_offline_is_whole_for_wandbs_reader_and_after_a_sync(
    server: WandbServer, environment: Environment, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    metrics = folder / "metrics.jsonl"

    def written() -> bool:
        return metrics.exists() and '"step": 7,' in metrics.read_text()

    killed_when(written, (*SMALL, f"hydra.run.dir={folder}"), environment, tmp_path)
    out = run(["summarizer.run", f"resume={folder}"], environment, tmp_path)
    records = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(records) == 2
    assert f"wandb sync {records[1].relative_to(tmp_path)}" in out

    history: list[dict[str, Any]] = []
    for record in records:
        lines = run(["wandb", "leet", "inspect", "--json", str(record)], environment, tmp_path).splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{")]
        history += [one["history"]["item"] for one in told if one["type"] == "history"]
    assert untimed(of_history(history)) == untimed(of_metrics(folder))

    # wandb keeps records in memory for a while: a kill may leave none in the file, which its sync refuses.
    held = [record for record in records if any(read_records(next(record.glob("*.wandb"))))]
    assert records[1] in held
    run(["wandb", "sync", *map(str, held)], environment, tmp_path)
    (served,) = server.runs.values()
    assert untimed(of_history(served.history)) == untimed(of_metrics(folder))
    best_of(served, folder)
    assert served.summary["status"] == "completed"
    told = read_summary(folder).summary()
    assert {key: served.summary.get(key) for key in told} == told


@pytest.mark.slow
def test_wandbs_agent_runs_the_grid_of_the_studys_file(
    server: WandbServer, environment: Environment, tmp_path: Path
) -> None:
    sweep = yaml.safe_load(SWEEP_FILE.read_text())
    sweep["parameters"] = {"adapter.dim": {"values": [2]}, "optimizer.lr": {"values": [0.0001, 0.001]}}
    # The study's model is on the hub: the embedded one in its place, and little of it.
    small = [word for word in TINY if word != "tracking=none"]
    sweep["command"] += [
        "model=tiny_gptj",
        "data=sample",
        "trainer.max_steps=2",
        "tracking.project=other",
        *small,
    ]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    environment |= {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"}
    said = run(["wandb", "sweep", "--project", "grid", "sweep.yaml"], environment, tmp_path)
    (path,) = re.findall(rf"wandb agent ({ENTITY}/grid/\w+)", said)
    run(["wandb", "agent", "--count", "2", path], environment, tmp_path)

    (served,) = server.sweeps.values()
    assert served.pending == []
    assert len(server.runs) == 2
    for rate, (name, one) in zip((0.0001, 0.001), server.runs.items(), strict=True):
        assert name.startswith(served.name)  # the agent's name for it, in the agent's project and sweep
        assert (one.project, one.told["sweep"]) == ("grid", served.name)
        assert "groupName" not in one.told
        assert one.config["optimizer"]["lr"] == one.config["optimizer.lr"] == rate
        assert one.config["adapter"]["dim"] == one.config["adapter.dim"] == 2
        assert [row["_step"] for row in one.history] == [0, 1, 2]
        assert "val/loss" in one.history[0]
        assert "val/loss" in one.history[2]  # what the controller compares
        assert one.exit_codes == [0]
    kept = {file.read_text().strip() for file in tmp_path.glob("outputs/*/*/wandb_id.txt")}
    assert kept == {
        f"{ENTITY}/grid/{name}" for name in server.runs
    }  # so that resume= finds them, without agent


def test_the_studys_sweep_is_the_grid_of_its_experiment() -> None:
    sweep = yaml.safe_load(SWEEP_FILE.read_text())
    experiment = yaml.safe_load((REPOSITORY / "conf" / "experiment" / "dim_lr_sweep.yaml").read_text())
    grid = experiment["hydra"]["sweeper"]["params"]
    assert {key: [float(word) for word in values.split(",")] for key, values in grid.items()} == {
        key: [float(value) for value in item["values"]] for key, item in sweep["parameters"].items()
    }
    assert all(
        isinstance(value, (int, float)) for item in sweep["parameters"].values() for value in item["values"]
    )
    assert {"experiment=dim_lr_sweep", "tracking.mode=online", "${args_no_hyphens}"} <= set(sweep["command"])
