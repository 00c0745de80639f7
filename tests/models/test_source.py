"""Where a model's files are looked for, and what is said where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from summarizer.config.schema import ModelConfig
from summarizer.errors import ConfigError
from summarizer.models.source import model_folder


class TransportError(Exception):
    """As a library of the hub's raises it: no OSError."""


@pytest.mark.parametrize("weights", [True, False])
def test_a_hub_that_cannot_be_reached_is_one_mistake(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: bool
) -> None:
    def unreachable(*_: Any, local_files_only: bool = False, **__: Any) -> str:
        raise FileNotFoundError("nothing") if local_files_only else TransportError("no route\nto it")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    spec = ModelConfig(name_or_path="outputs/smollm2", revision=None, completion_token=None)
    with pytest.raises(ConfigError) as caught:
        model_folder(spec, weights=weights)
    assert "'outputs/smollm2' is no folder in " in str(caught.value)
    assert "cannot be fetched from the hub (no route);" in str(caught.value)


@pytest.mark.parametrize("weights", [True, False])
def test_an_earlier_download_is_used_and_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, weights: bool
) -> None:
    def unreachable(*_: Any, local_files_only: bool = False, **__: Any) -> str:
        if local_files_only:
            return str(tmp_path / "4f3a")
        raise TransportError("no route\nto it")

    (tmp_path / "4f3a").mkdir()
    (tmp_path / "4f3a" / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    spec = ModelConfig(name_or_path="someone/model", revision=None, completion_token=None)
    assert model_folder(spec, weights=weights) == tmp_path / "4f3a"
    assert [record.getMessage() for record in caplog.records] == [
        "base model: the hub does not give someone/model (no route); revision 4f3a is used, downloaded before"
    ]
