from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from summarizer.config.schema import TrackingConfig
from summarizer.errors import ConfigError
from summarizer.tracking import wandb_run
from summarizer.tracking.metrics import MetricsFile, SampleSummary, Tracker, read_metrics
from summarizer.tracking.wandb_log import last_recorded_step, read_raw, read_records
from summarizer.tracking.wandb_run import open_tracker

pytestmark = pytest.mark.versions

WANDB_KEY = "feedfacefeedfacefeedfacefeedfacefeedface"
HUB_TOKEN = "hf_recognizablerecognizablerecogn"


@pytest.fixture(scope="module", autouse=True)
def own_wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """wandb reads its environment once per process: set it before, with secrets to look for afterwards."""
    wandb.teardown()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        patch.setenv("WANDB_API_KEY", WANDB_KEY)
        patch.setenv("HF_TOKEN", HUB_TOKEN)
        yield
        wandb.teardown()


def spec(
    mode: Literal["offline", "online", "disabled"] = "offline", log_adapter: bool = True
) -> TrackingConfig:
    return TrackingConfig(
        mode=mode, project="p", entity=None, name=None, group=None, tags=["t"], log_adapter=log_adapter
    )


def opened(folder: Path, name: str = "dim=2", resumed: bool = False, log_adapter: bool = True) -> Tracker:
    folder.mkdir(exist_ok=True)
    config = {
        "adapter": {"dim": 2},
        "optimizer": {"lr": 1e-4},
        "data": {"paths": [f"https://me:{HUB_TOKEN}@host"]},
    }
    return open_tracker(
        spec(log_adapter=log_adapter), folder, name=name, group="sweep", config=config, resumed=resumed
    )


@dataclass
class Recorded:
    """What a `.wandb` file says."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    exit_code: int | None = None


def recorded(folder: Path) -> Recorded:
    wandb.teardown()  # a finished run's last records are certain to be on disk when the service has ended
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found = Recorded()
    for record in map(Record.FromString, read_raw(file)):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            found.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            row = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            found.history.append(row)
        elif kind == "summary":
            for item in record.summary.update:
                found.summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        elif kind == "artifact":
            paths = [entry.path for entry in record.artifact.manifest.contents]
            found.artifacts.setdefault(record.artifact.type, []).extend(paths)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def test_two_runs_at_once_are_on_disk_whole_and_without_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = tmp_path / "one" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    state = random.getstate()
    with caplog.at_level(logging.INFO, logger="summarizer"):
        one, two = opened(tmp_path / "one"), opened(tmp_path / "two", name="n" * 200, log_adapter=False)
    assert caplog.text.count("wandb sync") == 0, "a sweep says it once, at its end"
    for step in (1, 2, 5):
        one.log({"train/loss": 1 / step}, step)
        two.log({"train/loss": 10.0}, step)
    one.log({"val/loss": 2.0, "val/rouge1": 30.0}, 5)
    one.log_samples(5, [SampleSummary("id7", "An article.", "A reference.", None, "A prediction.")])
    one.log({"val/loss": 3.0, "val/rouge1": 20.0}, 6)
    one.log_adapter(adapter)
    two.log_adapter(adapter)
    one.finish("completed", {"rouge": {"rouge1": {"value": 30.0}}, "steps": 6})
    two.finish("failed", {"error": "loss is nan"})
    assert random.getstate() == state  # wandb must not change a run's numbers

    found = recorded(tmp_path / "one")
    assert (found.run.project, found.run.display_name, found.run.run_group) == ("p", "dim=2", "sweep")
    assert list(found.run.tags) == ["t"]
    assert found.config["adapter"] == {"dim": 2}
    assert found.config["optimizer"] == {"lr": 1e-4}
    assert found.config["data"] == {"paths": ["***"]}
    assert found.run.host == ""
    rows = {row["_step"]: row for row in found.history}
    assert list(rows) == [1, 2, 5, 6]
    assert [row["step"] for row in rows.values()] == [1, 2, 5, 6]
    assert [rows[step]["train/loss"] for step in (1, 2, 5)] == [1, 0.5, 0.2]
    assert rows[5]["val/loss"] == 2.0  # beside the training loss of the same step
    assert found.summary["val/loss"] == {"min": 2.0, "last": 3.0}
    assert found.summary["val/rouge1"] == {"max": 30.0, "last": 20.0}
    assert found.summary["status"] == "completed"
    assert found.summary["rouge"] == {"rouge1": {"value": 30.0}}
    assert found.artifacts["adapter"] == ["adapter_config.json"]
    assert found.artifacts["run_table"] == ["samples.table.json"]
    (table,) = (tmp_path / "one").glob("wandb/*/files/media/table/*.json")
    assert json.loads(table.read_text()) == {
        "columns": ["id", "article", "reference", "base", "prediction"],
        "data": [["id7", "An article.", "A reference.", None, "A prediction."]],
    }
    assert found.exit_code == 0

    other = recorded(tmp_path / "two")
    assert other.exit_code == 1
    assert other.summary["status"] == "failed"
    assert {row["train/loss"] for row in other.history} == {10.0}
    assert len(other.run.display_name) == 128
    assert "adapter" not in other.artifacts
    assert other.run.run_id != found.run.run_id

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        for secret in (WANDB_KEY, HUB_TOKEN):
            assert secret.encode() not in content, path
    assert WANDB_KEY not in caplog.text


def test_a_resumed_run_goes_on_in_its_wandb_run_and_its_service_may_die(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = opened(tmp_path)
    kept = (tmp_path / "wandb_id.txt").read_text()
    first.log({"train/loss": 1.0}, 1)
    with pytest.raises(ValueError, match="step 0 after step 1"):
        first.log({"train/loss": 1.0}, 0)
    first.finish("stopped", {})
    assert recorded(tmp_path).exit_code == 0
    again = opened(tmp_path, resumed=True)
    assert (tmp_path / "wandb_id.txt").read_text() == kept
    assert [path.name for path in tmp_path.glob("wandb/offline-run-*/*.wandb")] == [
        f"run-{kept.strip()}.wandb"
    ] * 2

    kill_wandb_service()
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(2, 6):
        metrics.log({"step": step})
        again.log({"train/loss": 1.0}, step)
    again.log_samples(6, [])
    again.log_adapter(tmp_path)
    again.finish("completed", {})
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [2, 3, 4, 5]
    assert caplog.text.count("wandb failed") == 1  # said once

    after = opened(tmp_path / "next")  # the sweep goes on
    after.log({"train/loss": 1.0}, 1)
    after.finish("completed", {})
    assert recorded(tmp_path / "next").exit_code == 0


def test_rows_that_a_kill_kept_from_wandb_come_after_and_no_row_twice(tmp_path: Path) -> None:
    first = opened(tmp_path)
    for step in range(4):
        first.log({"val/loss": 1.0 + step}, step)
    first.finish("stopped", {})
    assert recorded(tmp_path).exit_code == 0
    (file,) = tmp_path.glob("wandb/*/*.wandb")
    name = (tmp_path / "wandb_id.txt").read_text().strip()
    assert last_recorded_step(tmp_path, name) == 3
    cut = file.read_bytes()
    while last_recorded_step(tmp_path, name) == 3:  # a kill may cut it anywhere
        cut = cut[:-5]
        file.write_bytes(cut)
    assert last_recorded_step(tmp_path, name) == 2

    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(6):
        metrics.log({"val/loss": 1.0 + step, "step": step})
    again = opened(tmp_path, resumed=True)
    again.replay(metrics.records())
    again.log({"val/loss": 9.0}, 6)
    metrics.log({"val/loss": 9.0, "step": 6})
    again.finish("completed", {})
    wandb.teardown()
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for part in sorted(tmp_path.glob("wandb/*/*.wandb")):
        for record in read_records(part):
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            rows += [{key: json.loads(value) for key, value in items.items()}] if items else []
            summary |= {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.summary.update
            }
    assert [(row["_step"], row["step"], row["val/loss"]) for row in rows] == [
        *((step, step, 1.0 + step) for step in range(6)),
        (6, 6, 9.0),
    ]
    assert summary["val/loss"] == {"min": 2.0, "last": 9.0}  # of both processes; at step 0 it is the base's


def test_a_run_stopped_before_its_first_record_has_no_row_and_its_first_comes_after(tmp_path: Path) -> None:
    opened(tmp_path).finish("stopped", {})
    name = (tmp_path / "wandb_id.txt").read_text().strip()
    assert last_recorded_step(tmp_path, name) is None
    again = opened(tmp_path, resumed=True)
    again.log({"val/loss": 3.0}, 0)
    again.log({"val/loss": 2.0}, 1)
    again.finish("completed", {})
    wandb.teardown()
    rows = [
        {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        for part in sorted(tmp_path.glob("wandb/*/*.wandb"))
        for record in read_records(part)
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(float(row["_step"]), float(row["val/loss"])) for row in rows] == [(0, 3.0), (1, 2.0)]


@pytest.mark.parametrize(
    ("values", "in_summary"),
    [
        ([2.0, 3.0, 4.0], {"min": 3.0, "last": 4.0}),
        ([2.0], {"last": 2.0}),
    ],
)
def test_the_untrained_base_is_no_runs_best(
    values: list[float], in_summary: dict[str, float], tmp_path: Path
) -> None:
    """While it trains neither."""
    tracker, metrics = opened(tmp_path), MetricsFile(tmp_path / "metrics.jsonl")
    for step, value in enumerate(values):
        metrics.log({"val/loss": value, "step": step})
        tracker.log({"val/loss": value, "train/loss": value}, step)
    tracker.log({"train/loss": 1.0}, len(values))  # with which wandb closes the row before
    assert isinstance(tracker, wandb_run.WandbTracker)
    assert dict(tracker._run.summary["val/loss"]) == in_summary
    tracker.finish("completed", {})
    assert recorded(tmp_path).summary["val/loss"] == in_summary


def kill_wandb_service() -> None:
    listing = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()]
    services = [
        int(pid) for pid, parent, name in rows if name.startswith("wandb-core") and int(parent) == os.getpid()
    ]
    assert len(services) == 1
    os.kill(services[0], signal.SIGKILL)
    os.waitpid(services[0], 0)


def test_an_id_file_from_elsewhere_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "wandb_id.txt").write_text("../../x\n")
    with pytest.raises(ConfigError, match="not a wandb run id"):
        opened(tmp_path, resumed=True)


def test_a_server_that_refuses_is_the_users_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**settings: Any) -> None:
        raise wandb.errors.CommError("no route to the server")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConfigError, match=r"no route to the server.*tracking.mode=offline"):
        open_tracker(spec("online"), tmp_path, name="n", group=None, config={}, resumed=False)
    assert wandb_run.ID_FILE in os.listdir(tmp_path)
