"""Checkpoints: which are kept, which is taken up, and what a damaged one costs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import DAMAGE
from training_groups import build_group, spec_of, train

from summarizer.errors import ConfigError
from summarizer.training.checkpoint import (
    load_latest,
    load_state,
    require_checkpoint,
    save_checkpoint,
    save_state,
)
from summarizer.training.checkpoint_folders import list_checkpoints, newest_step
from summarizer.training.trial import TrainerState, Trial

STEPS = (
    "trainer.max_steps=4",
    "trainer.checkpoint_every_steps=1",
    "trainer.evaluate_every_steps=2",
    "trainer.keep_checkpoints=3",
)
SPEC = spec_of(*STEPS)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    (trial,) = train(build_group([SPEC], tmp_path_factory.mktemp("trained"))).why
    return trial


@pytest.fixture
def trained(once: Trial, tmp_path: Path) -> Trial:
    """A trial that ended, whose checkpoints lie where `fresh` finds copies of them."""
    shutil.copytree(once.checkpoints, tmp_path / "0" / "checkpoints")
    return once


def fresh(tmp_path: Path) -> Trial:
    """The trial as a resumed run has it, before it takes up a checkpoint."""
    return build_group([SPEC], tmp_path).trials[0]


def before_the_end(trained: Trial) -> TrainerState:
    """The state after the last step, before the evaluation that follows it: a longer run may not have that one."""
    return replace(trained.state, evaluated_step=2, evaluations_since_best=0)


def checkpoints(tmp_path: Path) -> list[Path]:
    return list_checkpoints(tmp_path / "0" / "checkpoints")


def test_the_newest_are_kept(once: Trial) -> None:
    assert [path.name for path in list_checkpoints(once.checkpoints)] == [
        "step-00000002",
        "step-00000003",
        "step-00000004",
    ]


def test_the_newest_is_taken_up_whole(trained: Trial, tmp_path: Path) -> None:
    trial = fresh(tmp_path)
    (trial.checkpoints / ".writing-left-by-a-kill").mkdir()
    load_latest(trial)
    assert trial.state == before_the_end(trained)
    assert (trial.state.step, trial.state.best_step) == (4, 2)
    assert trial.best is not None
    assert trained.best is not None
    for name, parameter in trained.parameters.items():
        assert torch.equal(trial.parameters[name], parameter)
        assert torch.equal(trial.best[name], trained.best[name])
    assert not list(trial.checkpoints.glob(".writing-*"))


FILES = (
    "adapter.safetensors",
    "best.safetensors",
    "optimizer.safetensors",
    "optimizer.json",
    "reached.json",
    "config.json",
)


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.slow
def test_a_damaged_one_costs_no_more_than_itself(
    file: str, what: str, trained: Trial, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    *_, newest = checkpoints(tmp_path)
    assert {path.name for path in newest.iterdir()} == {*FILES, "digests.json"}
    assert newest_step(newest.parent) == 4
    DAMAGE[what](newest / file)
    assert newest_step(newest.parent) == 3
    trial = fresh(tmp_path)
    before = {name: parameter.clone() for name, parameter in trial.parameters.items()}
    load_latest(trial)
    assert trial.state.step == 3
    assert f"step-00000004 cannot be read, trying the one before: {file} is" in caplog.text
    assert any(not torch.equal(before[name], parameter) for name, parameter in trial.parameters.items())


def test_none_that_can_be_read_is_an_error_that_says_how_to_begin_anew(
    trained: Trial, tmp_path: Path
) -> None:
    for folder in checkpoints(tmp_path):
        (folder / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="none of the 3 checkpoints") as caught:
        load_latest(fresh(tmp_path))
    assert "step-00000002: adapter.safetensors is damaged" in str(caught.value)
    assert "delete that folder, and the run is resumed from its beginning" in str(caught.value)


def test_one_of_an_earlier_version_is_taken_up_and_the_log_says_so(
    trained: Trial, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (checkpoints(tmp_path)[-1] / "digests.json").unlink()
    trial = fresh(tmp_path)
    load_latest(trial)
    assert trial.state == before_the_end(trained)
    assert caplog.text.count("step-00000004 is of an earlier version: it has no digests") == 1


def test_one_of_another_adapter_is_not_taken_up(trained: Trial, tmp_path: Path) -> None:
    trial = build_group([spec_of(*STEPS, "adapter.dim=3")], tmp_path).trials[0]
    with pytest.raises(ConfigError, match="none of the 3 checkpoints"):
        load_latest(trial)


def test_saving_is_not_led_elsewhere(trained: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link takes the folder's place while a checkpoint is written: nothing is written or deleted behind it."""
    theirs = tmp_path / "theirs"
    (theirs / "step-00000002").mkdir(parents=True)
    load_latest(trial := fresh(tmp_path))
    assert trial.optimizer is not None
    state_of = trial.optimizer.state_dict

    def swapping() -> dict[str, Any]:
        trial.checkpoints.rename(tmp_path / "aside")
        trial.checkpoints.symlink_to(theirs)
        return state_of()

    monkeypatch.setattr(trial.optimizer, "state_dict", swapping)
    trial.state.step = 5
    save_checkpoint(trial)
    assert [path.name for path in theirs.rglob("*")] == ["step-00000002"]
    assert [path.name for path in list_checkpoints(tmp_path / "aside")] == [
        "step-00000003",
        "step-00000004",
        "step-00000005",
    ]
    assert not list((tmp_path / "aside").glob(".writing-*"))


def test_whether_one_can_be_taken_up_is_known_before_a_model(trained: Trial, tmp_path: Path) -> None:
    require_checkpoint(waiting := fresh(tmp_path))
    for folder in checkpoints(tmp_path):
        state = json.loads((folder / "reached.json").read_text()) | {"tokens": -1}
        (folder / "reached.json").write_text(json.dumps(state))
        (folder / "digests.json").unlink()
    with pytest.raises(ConfigError, match=r"none of the 3 checkpoints .* reached\.json: tokens is -1"):
        require_checkpoint(waiting)


def test_without_any_the_trial_starts_anew(tmp_path: Path) -> None:
    trial = fresh(tmp_path)
    load_latest(trial)
    assert trial.state.step == 0


# ---- an optimizer's state on disk --------------------------------------------------------------------------------


def test_nested_values_keep_their_types(tmp_path: Path) -> None:
    state = {
        "state": {0: {"step": 3, "m": torch.arange(6, dtype=torch.uint8).reshape(2, 3)}, 1: {}},
        "param_groups": [
            {"lr": 1e-4, "betas": (0.9, 0.999), "params": [0, 1], "foreach": None, "amsgrad": False}
        ],
    }
    save_state(state, tmp_path / "s")
    back = load_state(tmp_path / "s")
    assert back["param_groups"] == state["param_groups"]
    assert isinstance(back["param_groups"][0]["betas"], tuple)
    assert list(back["state"]) == [0, 1]
    assert torch.equal(back["state"][0]["m"], state["state"][0]["m"])  # type: ignore[index]


def test_what_cannot_be_saved_without_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="function"):
        save_state({"state": {0: {"hook": lambda: None}}}, tmp_path / "s")
