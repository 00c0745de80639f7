"""Event files as TensorBoard itself reads them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from config.composing import composed

from summarizer.config.check import check
from summarizer.errors import ConfigError
from summarizer.runs.preflight import preflight
from summarizer.tracking import event_files
from summarizer.tracking.event_files import EventFiles, folder_name, last_event_step
from summarizer.tracking.metrics import SampleSummary

pytest.importorskip("tensorboard", reason="tensorboard is not installed")


def opened(folder: Path, name: str = "dim=2 lr=1e-4", *, resumed: bool = False) -> EventFiles:
    folder.mkdir(exist_ok=True)
    config = {"adapter": {"dim": 2}, "data": {"api_key": "verysecret"}}
    return EventFiles(folder, name=name, config=config, alone=True, resumed=resumed)


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar that TensorBoard shows of the one run below a folder, by its name: steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = (folder / event_files.FOLDER).iterdir()
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def texts(folder: Path) -> dict[str, str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = (folder / event_files.FOLDER).iterdir()
    events = EventAccumulator(str(run), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag.removesuffix("/text_summary"): events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
        for tag in events.Tags()["tensors"]
    }


ROWS: list[Mapping[str, Any]] = [
    {"step": step, "epoch": step / 4, "train/loss": 4.0 - step / 2, "val/rouge1": 10.0 + step}
    for step in range(5)
]


def log(tracker: EventFiles, rows: list[Mapping[str, Any]], added: float = 0.0) -> None:
    for row in rows:
        values = {name: value + added for name, value in row.items() if name != "step"}
        tracker.log({**values, "step": row["step"]}, row["step"])


def test_every_metric_has_its_name_and_its_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = opened(tmp_path / "run")
    with caplog.at_level(logging.INFO):
        log(tracker, ROWS)
    tracker.log({"step": 5, "train/loss": math.nan}, 5)
    tracker.log_samples(5, [SampleSummary("row1", "An article.", "A *reference*.", None, "A prediction.")])
    tracker.finish("completed", {"steps": 5, "val_loss": 2.5})
    found = shown(tmp_path / "run")
    assert set(found) == {"epoch", "train/loss", "val/rouge1"}
    assert found["val/rouge1"] == [(step, 10.0 + step) for step in range(5)]
    assert found["train/loss"][:5] == [(step, 4.0 - step / 2) for step in range(5)]
    assert math.isnan(found["train/loss"][5][1])
    said = texts(tmp_path / "run")
    assert set(said) == {"config", "samples/row1", "summary"}
    assert "verysecret" not in said["config"]
    assert "A *reference*." in said["samples/row1"]
    assert '"status": "completed"' in said["summary"]
    assert any("tensorboard --logdir" in line for line in caplog.messages)


@pytest.mark.parametrize("lost", [0, 2], ids=["all written", "two rows lost"])
def test_a_resumed_run_appends_and_nothing_is_there_twice(tmp_path: Path, lost: int) -> None:
    """Killed after step 4, resumed from the checkpoint of step 2, whatever of it the event file had."""
    log(opened(tmp_path / "run"), ROWS[: 5 - lost - (1 if lost else 0)])
    resumed = opened(tmp_path / "run", resumed=True)
    resumed.replay(ROWS[:3])
    log(resumed, ROWS[3:], added=100.0)
    resumed.finish("completed", {"steps": 4})
    expected = [(0, 10.0), (1, 11.0), (2, 12.0), (3, 113.0), (4, 114.0)]
    assert shown(tmp_path / "run")["val/rouge1"] == expected


def test_a_run_that_had_no_event_files_gets_all_of_its_past(tmp_path: Path) -> None:
    resumed = opened(tmp_path / "run", resumed=True)
    resumed.replay(ROWS[:3])
    log(resumed, ROWS[3:])
    assert shown(tmp_path / "run")["train/loss"] == [(step, 4.0 - step / 2) for step in range(5)]


def test_the_last_step_of_a_file_that_a_kill_cut_short(tmp_path: Path) -> None:
    log(opened(tmp_path / "run"), ROWS)
    (run,) = (tmp_path / "run" / event_files.FOLDER).iterdir()
    (file,) = run.iterdir()
    assert last_event_step(run) == 4
    file.write_bytes(file.read_bytes()[:-5])
    assert last_event_step(run) == 4, "two values of step 4 are whole"
    file.write_bytes(b"")
    assert last_event_step(run) is None or last_event_step(run) == 0
    assert last_event_step(tmp_path / "none") is None


def test_runs_of_a_sweep_stand_in_one_log_folder_by_their_names(tmp_path: Path) -> None:
    for number, name in enumerate(("dim=2 lr=1e-4", "train=/home/me/rows.jsonl")):
        log(opened(tmp_path / str(number), name), ROWS)
    files = sorted(path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("events.*"))
    assert files == ["0/tensorboard/dim=2 lr=1e-4", "1/tensorboard/train=_home_me_rows.jsonl"]
    assert folder_name("../..") == "_"
    assert folder_name("...") == "run"


def test_a_failure_is_said_once_and_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = opened(tmp_path / "run")
    (tmp_path / "run" / event_files.FOLDER).write_text("no folder")
    log(tracker, ROWS)
    tracker.finish("completed", {})
    assert len(caplog.messages) == 1
    assert "gets nothing more of this run" in caplog.messages[0]


@pytest.mark.parametrize(
    ("override", "mode"),
    [
        ("tracking=[wandb,tensorboard]", "offline"),
        ("tracking=[tensorboard,wandb]", "offline"),
        ("tracking=tensorboard", "disabled"),
    ],
)
def test_trackers_are_options_of_one_group(override: str, mode: str) -> None:
    tracking = check(composed(override, "tracking.project=mine")).tracking
    assert (tracking.mode, tracking.tensorboard, tracking.project) == (mode, True, "mine")


def test_a_missing_package_is_said_before_anything_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not check(composed()).tracking.tensorboard
    monkeypatch.setattr(event_files, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tracking\.tensorboard: .*pip install 'tensorboard"):
        preflight(composed("tracking=tensorboard"))
