"""A key of an earlier version: told its new name in a command, translated in a run folder."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from composing import composed, mistakes
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from summarizer.config import renamed
from summarizer.config.paths import conf_folder
from summarizer.config.renamed import RENAMED, Gone
from summarizer.runs.record import read_configured


@pytest.fixture
def an_old_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "RENAMED", {"trainer.rounds": "trainer.epochs"})
    monkeypatch.setattr(renamed, "REMOVED", {"generation.engine": Gone("ours", "ours writes every summary")})


@pytest.mark.usefixtures("an_old_version")
def test_an_old_key_in_a_command_is_told_its_new_name() -> None:
    assert mistakes("+trainer.rounds=2", "adapter.dim=x") == [
        "trainer.rounds: now trainer.epochs",
        "adapter.dim: 'x' is not a whole number of at least 1",
    ]
    assert mistakes("+generation.engine=ours") == ["generation.engine: is gone; ours writes every summary"]


def _run(folder: Path, engine: str) -> Path:
    config = composed("+trainer.rounds=7", f"+generation.engine={engine}")
    OmegaConf.set_struct(config, False)
    del config.trainer["epochs"]
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    OmegaConf.save([], folder / ".hydra" / "overrides.yaml")
    return folder


@pytest.mark.usefixtures("an_old_version")
def test_a_run_folder_of_an_earlier_version_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = read_configured(_run(tmp_path / "same", "ours")).config
    assert config["trainer"]["epochs"] == 7
    assert "rounds" not in config["trainer"]
    assert "engine" not in config["generation"]
    assert caplog.messages == []
    with caplog.at_level(logging.WARNING):
        read_configured(_run(tmp_path / "other", "theirs"))
    (line,) = caplog.messages
    assert line.endswith("other: generation.engine=theirs is gone; ours writes every summary")


def test_every_old_name_stands_for_a_key_of_today() -> None:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", return_hydra_config=True)
    for old, new in RENAMED.items():
        for key, is_there in ((new, True), (old, False)):
            group, _, name = key.rpartition(".")
            node = OmegaConf.select(config, group)
            assert (node is not None and name in node) == is_there, key
