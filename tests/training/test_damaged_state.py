"""What a checkpoint from elsewhere, or a damaged one, may say of how far a trial had come; and an edited config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from training_groups import build_group, spec_of, train

from summarizer.digests import DIGESTS
from summarizer.errors import ConfigError
from summarizer.training.checkpoint import load_latest
from summarizer.training.checkpoint_folders import list_checkpoints
from summarizer.training.trial import Trial

STEPS = ("trainer.max_steps=4", "trainer.checkpoint_every_steps=2", "trainer.evaluate_every_steps=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    (trial,) = train(build_group([spec_of(*STEPS)], tmp_path_factory.mktemp("trained"))).why
    return trial


def again(trained: Trial, tmp_path: Path, *overrides: str) -> Trial:
    """The trial as a resumed run has it, before it takes up a checkpoint. Nothing says what the files held."""
    shutil.copytree(
        trained.checkpoints, tmp_path / "0" / "checkpoints", ignore=shutil.ignore_patterns(DIGESTS)
    )
    return build_group([spec_of(*STEPS, *overrides)], tmp_path).trials[0]


def change(checkpoint: Path, **values: Any) -> None:
    file = checkpoint / "reached.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"step": "two"}, "step: Input should be a valid integer"),
        ({"step": True}, "step: Input should be a valid integer"),
        ({"step": -5}, "step is -5"),
        ({"step": 10**15}, "step is 1000000000000000"),
        ({"step": 3}, "step is 3"),
        ({"tokens": None}, "tokens: Input should be a valid integer"),
        ({"tokens": -1}, "tokens is -1"),
        ({"last_loss": [1]}, "last_loss: Input should be a valid number"),
        ({"train_s": float("nan")}, "train_s is nan"),
        ({"wall_s": float("inf")}, "wall_s is inf"),
        ({"best_step": 9}, "best_step is after step 4"),
        ({"x": 1}, "x: Unexpected keyword argument"),
    ],
)
@pytest.mark.slow
def test_a_state_that_cannot_be_costs_its_checkpoint(
    values: dict[str, Any], reason: str, trained: Trial, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial = again(trained, tmp_path)
    change(list_checkpoints(trial.checkpoints)[-1], **values)
    load_latest(trial)
    assert trial.state.step == 2
    (said,) = [line for line in caplog.messages if "cannot be read" in line]
    assert said.startswith("checkpoint step-00000004 cannot be read, trying the one before: reached.json: ")
    assert reason in said
    for checkpoint in list_checkpoints(trial.checkpoints):
        change(checkpoint, **values)
    with pytest.raises(ConfigError, match=r"none of the 2 checkpoints .* delete that folder"):
        load_latest(trial)


@pytest.mark.parametrize("content", ["[1]", "", "{", "[" * 100_000, "null", '{"step": 4}' + " " * 2**25])
def test_a_state_that_is_none(
    content: str, trained: Trial, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial = again(trained, tmp_path)
    (list_checkpoints(trial.checkpoints)[-1] / "reached.json").write_text(content)
    load_latest(trial)
    assert trial.state.step == 2
    assert "step-00000004 cannot be read" in caplog.text


def test_a_state_that_is_missing_is_no_silent_start_from_zero(trained: Trial, tmp_path: Path) -> None:
    trial = again(trained, tmp_path)
    for checkpoint in list_checkpoints(trial.checkpoints):
        (checkpoint / "reached.json").unlink()
    with pytest.raises(ConfigError, match="none of the 2 checkpoints"):
        load_latest(trial)


def test_a_folder_of_another_name_is_no_checkpoint(trained: Trial, tmp_path: Path) -> None:
    trial = again(trained, tmp_path)
    newest = list_checkpoints(trial.checkpoints)[-1]
    for name in ("step-x", "step-00000099.bak", "step--0000001", "step-" + "9" * 40):
        shutil.copytree(newest, newest.with_name(name))
    load_latest(trial)
    assert trial.state.step == 4


def test_more_steps_than_the_run_asks_for(
    trained: Trial, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial = again(trained, tmp_path, "trainer.max_steps=3")
    load_latest(trial)
    assert trial.state.step == 2
    assert "it is of step 4, but the run asks for 3" in caplog.text


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"tensor": "a'`touch PWNED`\x1b]0;x\x07"}, "names a tensor that optimizer.safetensors has not"),
        ([], "is not as a checkpoint has it"),
        ({"list": [{"list": 3}]}, ""),
    ],
)
def test_foreign_text_is_not_logged(
    tree: Any, reason: str, trained: Trial, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial = again(trained, tmp_path)
    (list_checkpoints(trial.checkpoints)[-1] / "optimizer.json").write_text(json.dumps(tree))
    load_latest(trial)
    assert trial.state.step == 2
    assert reason in caplog.text
    assert "PWNED" not in caplog.text


def test_deep_nesting_costs_its_checkpoint(
    trained: Trial, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Too deep for Python's reader, and only for what walks the tree after it."""
    for number, levels in enumerate((100_000, 300)):
        trial = again(trained, tmp_path / str(number))
        text = '{"list": [' * levels + '{"value": 1}' + "]}" * levels
        (list_checkpoints(trial.checkpoints)[-1] / "optimizer.json").write_text(text)
        load_latest(trial)
        assert trial.state.step == 2
    assert caplog.text.count("it nests deeper than 64 levels") == 2


def test_a_config_that_was_changed_is_remarked_on(
    trained: Trial, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = again(trained, tmp_path / "same")
    load_latest(same)
    written = list_checkpoints(same.checkpoints)[-1] / "config.json"
    before = json.loads(written.read_text())
    assert before.pop("evaluation.batch_size") == 8  # as if the version that saved it had no such key
    written.write_text(json.dumps(before))
    load_latest(same)
    assert "was changed" not in caplog.text
    trial = again(trained, tmp_path / "other", "optimizer.lr=0.5", "adapter.dropout=0.25")
    load_latest(trial)
    (said,) = [line for line in caplog.messages if "was changed" in line]
    assert said.startswith(
        "the run's config was changed after step-00000004 was saved, and is followed as it is"
    )
    assert "adapter.dropout was 0.0, now 0.25" in said
    assert "optimizer.lr was 0.001, now 0.5" in said
    (list_checkpoints(trial.checkpoints)[-1] / "config.json").write_text(
        '{"seed": "\x1b[2J' + "x" * 99 + '"}'
    )
    load_latest(trial)
    assert "\x1b" not in caplog.text
