"""What the tests of the config share: composing as the command does, and the lines of a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from summarizer.config.paths import conf_folder
from summarizer.errors import ConfigError
from summarizer.runs.preflight import preflight


def composed(*overrides: str, folder: Path | None = None) -> DictConfig:
    with initialize_config_dir(str(folder or conf_folder()), version_base="1.3"):
        return compose("config", list(overrides))


def mistakes(*overrides: str) -> list[str]:
    """Each line of the message that these overrides, which Hydra composes, are refused with."""
    with pytest.raises(ConfigError) as caught:
        preflight(composed(*overrides))
    return [str(issue) for issue in caught.value.issues]
