"""Which of wandb's runs a run is: a new one, the one that it was before, or the one that an agent handed out."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from summarizer.atomic import write_text
from summarizer.config.schema import TrackingConfig
from summarizer.errors import ConfigError

KEPT = re.compile(r"(?:(?P<entity>[\w-]+)/(?P<project>[^/\\#?%:]{1,128})/)?(?P<id>[0-9a-z]{1,64})")
"""A run's id; of one that an agent handed out, with the place that the sweep has it in."""


def agent_sweep() -> str | None:
    """The id of the sweep whose agent, wandb's own, started this process. None for anyone else's process."""
    return os.environ.get("WANDB_SWEEP_ID") or None


@dataclass(frozen=True)
class Identity:
    """Where wandb is to put a run. None is for wandb to fill in."""

    id: str | None
    project: str | None
    entity: str | None


def identity_of(spec: TrackingConfig, file: Path, resumed: bool) -> Identity:
    """That of an agent's run, of a resumed run whose `file` says it, or a new one, whose id is kept there.

    Raises ConfigError where the file holds something else.
    """
    if agent_sweep():
        return Identity(None, None, None)  # its environment says all three, and wandb goes by that alone
    if resumed and file.exists():
        kept = file.read_text(encoding="utf-8").strip()
        if not (found := KEPT.fullmatch(kept)):
            raise ConfigError.single(
                str(file), f"{kept[:80]!r} is not a wandb run id; delete the file for a new wandb run"
            )
        return Identity(found["id"], found["project"] or spec.project, found["entity"] or spec.entity)
    # From the system, not from `random`: a run's random state is the same with and without wandb.
    fresh = secrets.token_hex(4)
    write_text(file, fresh + "\n")
    return Identity(fresh, spec.project, spec.entity)


def keep_agents_identity(file: Path, run: Any) -> None:
    """Write down where an agent's run is, so that it can be resumed without the agent. Others are kept already."""
    if agent_sweep():
        place = f"{run.entity}/{run.project}/" if run.entity else ""
        write_text(file, f"{place}{run.id}\n")
