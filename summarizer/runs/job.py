"""What one run is told to do, in a form that crosses process borders: plain data, no pickle."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from summarizer.config.plain import to_plain
from summarizer.config.renamed import translate_old_keys
from summarizer.errors import ConfigError, Issue

REFERENCE = re.compile(r"\$\{[A-Za-z_][\w.]*\}")
"""An interpolation that names another key of the same config, and calls nothing."""


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


def jobs_to_json(jobs: Sequence[Job]) -> str:
    return json.dumps([asdict(job) for job in jobs])


def jobs_from_json(text: str) -> list[Job]:
    return [Job(**{**raw, "overrides": tuple(raw["overrides"])}) for raw in json.loads(text)]


def job_of_folder(folder: Path, key: str = "resume") -> Job:
    """The job that a run folder was made for, to be resumed.

    key: what a message names as the source of the folder.

    The folder may come from elsewhere: its config is data, checked like any other, and nothing in it may call
    a function, such as `${oc.env:HOME}`, whose result would end up in what the run writes.
    Raises ConfigError where the folder or its config is missing, broken or does so.
    """
    config_file = folder / ".hydra" / "config.yaml"
    if not config_file.is_file():
        what = "no run folder: it has no .hydra/config.yaml" if folder.is_dir() else "no such folder"
        if folder.is_file():
            what = "is a file; name the folder of a run"
        raise ConfigError.single(key, f"{folder}: {what}")
    try:
        config = OmegaConf.load(config_file)
        overrides = OmegaConf.load(config_file.with_name("overrides.yaml"))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ConfigError.single(key, f"{config_file.parent} cannot be read: {reason}") from error
    if not isinstance(config, DictConfig) or not isinstance(overrides, ListConfig):
        raise ConfigError.single(key, f"{config_file.parent} is not a run's config")
    # Looked for before and after resolving: the pieces of a call could be put together by it.
    raw: dict[Any, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    issues = list(_calls(raw, ""))
    translate_old_keys(raw, str(folder))
    plain = {} if issues else to_plain(OmegaConf.create(raw))
    if issues := issues or list(_calls(plain, "")):
        raise ConfigError(issues)
    as_typed: list[Any] = OmegaConf.to_container(overrides)  # type: ignore[assignment]
    in_sweep = (folder.parent / "multirun.yaml").is_file()
    return Job(
        plain,
        str(folder),
        tuple(map(str, as_typed)),
        folder.parent.name if in_sweep else None,
        resumed=True,
    )


def _calls(node: object, key: str) -> Iterator[Issue]:
    """The values of a plain config, and its keys, that do more than refer to another key."""
    from summarizer.config.messages import shown  # pydantic with it

    if isinstance(node, dict):
        for name, value in node.items():
            yield from _calls(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _calls(value, key)
    elif isinstance(node, str) and "${" in REFERENCE.sub("", node):
        yield Issue(
            key, f"{shown(node)} is not resolved in a run folder; write the value itself in its place"
        )
