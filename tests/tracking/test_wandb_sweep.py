from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Literal

import pytest
import wandb
from test_wandb_run import own_wandb, recorded  # noqa: F401 - a fixture for this module too

from summarizer.config.schema import TrackingConfig
from summarizer.tracking.wandb_run import SWEEP_ID_FILE, SweepTable, log_sweep

COLUMNS = ["rank", "adapter.dim", "optimizer"]
ROWS = [[1, 8.0, "adamw"], [None, 2.0, "sgd"]]


def spec(mode: Literal["offline", "online", "disabled"] = "offline") -> TrackingConfig:
    return TrackingConfig(
        mode=mode, project="p", entity=None, name="mine", group=None, tags=["t"], log_adapter=False
    )


def logged(sweep: Path, tracking: TrackingConfig) -> bool:
    sweep.mkdir(exist_ok=True)
    picture = sweep / "heatmap.png"
    from matplotlib.figure import Figure

    Figure(figsize=(2, 1)).savefig(picture)
    summary = {"best": 2.325, "best_run": "7", "saved_samples": None}
    return log_sweep(tracking, sweep, SweepTable(COLUMNS, ROWS, {"heatmap": picture}, summary))


def test_the_table_and_pictures_are_a_run_of_the_sweeps_group(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = tmp_path / "10-15-30-sweep"
    caplog.set_level(logging.INFO, logger="summarizer")
    assert logged(sweep, spec())
    found = recorded(sweep)
    assert (found.run.project, found.run.run_group, found.run.job_type) == ("p", "10-15-30-sweep", "sweep")
    assert found.run.display_name == "sweep 10-15-30-sweep"
    assert list(found.run.tags) == ["t"]
    assert found.exit_code == 0
    (table,) = sweep.glob("wandb/*/files/media/table/*.json")
    assert json.loads(table.read_text()) == {"columns": COLUMNS, "data": ROWS}
    (picture,) = sweep.glob("wandb/*/files/media/images/heatmap*.png")
    assert picture.read_bytes() == (sweep / "heatmap.png").read_bytes()
    assert (found.summary["best"], found.summary["best_run"]) == (2.325, "7")
    kept = (sweep / SWEEP_ID_FILE).read_text()
    assert found.run.run_id == kept.strip()
    assert logged(sweep, spec())  # a resumed sweep tells it again
    assert (sweep / SWEEP_ID_FILE).read_text() == kept
    assert len(list(sweep.glob(f"wandb/offline-run-*/run-{kept.strip()}.wandb"))) == 2
    to_upload = f"`wandb sync {sweep}/wandb/offline-run-* {sweep}/*/wandb/offline-run-*`"
    assert caplog.text.count(to_upload) == 2


def test_disabled_does_nothing(tmp_path: Path) -> None:
    assert not logged(tmp_path, spec("disabled"))
    assert [path.name for path in tmp_path.iterdir()] == ["heatmap.png"]


def test_no_failure_of_wandb_ends_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**settings: Any) -> None:
        raise wandb.errors.CommError("no route to the server")

    with monkeypatch.context() as patch:
        patch.setattr(wandb, "init", refuse)
        assert not logged(tmp_path, spec("online"))
    with monkeypatch.context() as patch:
        patch.setattr(wandb, "Image", refuse)
        assert not logged(tmp_path / "broken", spec())
    assert recorded(tmp_path / "broken").exit_code == 1
    (tmp_path / SWEEP_ID_FILE).write_text("../../x")
    assert not logged(tmp_path, spec())
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 3
    assert "no route to the server" in warnings[0]
    assert "not a wandb run id" in warnings[2]
