"""Where a model's files are looked for, and what is said where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from summarizer.config.specs import ModelSpec
from summarizer.errors import ConfigError
from summarizer.model.source import model_folder


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
    spec = ModelSpec(name_or_path="outputs/smollm2", revision=None, completion_token=None)
    with pytest.raises(ConfigError) as caught:
        model_folder(spec, weights=weights)
    assert "'outputs/smollm2' is no folder in " in str(caught.value)
    assert "cannot be fetched from the hub (no route);" in str(caught.value)
