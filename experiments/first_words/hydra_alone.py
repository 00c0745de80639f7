"""This project's config under a program of nothing but Hydra: what `--help` costs before any code of ours."""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

CONF = Path(__file__).resolve().parents[2] / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def nothing(config: DictConfig) -> None:
    """Hydra answers `--help` itself."""


if __name__ == "__main__":
    nothing()
