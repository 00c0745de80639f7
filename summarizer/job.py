"""What one run is told to do, in a form that crosses process borders: plain data, no pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from summarizer.errors import ConfigError


@dataclass(frozen=True)
class Job:
    config: dict[str, Any]
    """The composed config, resolved."""
    folder: str
    """The run folder."""
    overrides: tuple[str, ...]
    sweep: str | None = None
    """The sweep's folder name, for the runs of one -m command."""
    resumed: bool = False

    @property
    def path(self) -> Path:
        return Path(self.folder)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        raw = json.loads(text)
        return cls(**{**raw, "overrides": tuple(raw["overrides"])})


def job_of_folder(folder: Path) -> Job:
    """The job that a run folder was made for, to be resumed.

    The folder may come from elsewhere: its config is plain data, checked like any other.
    Raises ConfigError where the folder or its config is missing or broken.
    """
    config_file = folder / ".hydra" / "config.yaml"
    if not config_file.is_file():
        what = "no run folder: it has no .hydra/config.yaml" if folder.is_dir() else "no such folder"
        raise ConfigError.single("resume", f"{folder}: {what}")
    try:
        config = OmegaConf.to_container(OmegaConf.load(config_file), resolve=True)
        overrides = OmegaConf.to_container(OmegaConf.load(config_file.with_name("overrides.yaml")))
    except Exception as error:  # whatever a broken YAML leads its parser to
        raise ConfigError.single("resume", f"{config_file} cannot be read: {error}") from error
    if not isinstance(config, dict) or not isinstance(overrides, list):
        raise ConfigError.single("resume", f"{config_file} is not a run's config")
    plain = {str(key): value for key, value in config.items()}
    in_sweep = (folder.parent / "multirun.yaml").is_file()
    return Job(plain, str(folder), tuple(map(str, overrides)), folder.parent.name if in_sweep else None, resumed=True)
