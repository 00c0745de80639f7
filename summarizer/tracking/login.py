"""wandb's view of this process: whether `tracking.mode` can work here, and which of its runs a run is.

The first is found out before any weight loads, and without importing wandb where that can be.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from summarizer import compat
from summarizer.atomic import write_text
from summarizer.config.schema import TrackingConfig
from summarizer.errors import ConfigError, Issue

MODES = ("disabled", "offline", "online")
"""What wandb may do, least first."""
OLD_MODES = {"dryrun": "offline", "run": "online"}
"""wandb's former names of them, which it still takes."""


def check_tracking(spec: TrackingConfig) -> list[Issue]:
    """One issue if wandb cannot be used as the config asks; nothing is sent anywhere.

    Online needs a key, which may come from WANDB_API_KEY, WANDB_IDENTITY_TOKEN_FILE or the netrc file that
    `wandb login` writes. A run that an agent of wandb's sweeps started needs to be online. WANDB_MODE may not
    forbid what the config asks for; where it asks for more than the config does, the config decides.
    """
    if issue := _against_the_environment(spec.mode):
        return [issue]
    if spec.mode != "online":
        return []
    given = [name for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE") if os.environ.get(name)]
    if len(given) == 2:
        return [
            Issue("tracking.mode", f"online: wandb takes one of {' and '.join(given)}, not both; unset one")
        ]
    if given or compat.has_wandb_key(_server()):
        return []
    ways_out = "run `wandb login`, set WANDB_API_KEY or use tracking.mode=offline"
    return [Issue("tracking.mode", f"online: no key for {_server()}; {ways_out}")]


def _against_the_environment(mode: str) -> Issue | None:
    if (sweep := agent_sweep()) and mode != "online":
        return Issue(
            "tracking.mode",
            f"{mode}: wandb's agent of the sweep {sweep} started this run and would never hear of its losses; "
            "put tracking.mode=online into the sweep's command",
        )
    asked = os.environ.get("WANDB_MODE")
    if not asked or mode == "disabled":
        return None
    allowed = OLD_MODES.get(asked, asked)
    if allowed not in MODES:
        return Issue(
            "WANDB_MODE", f"{asked!r} is none of {', '.join(MODES)}; unset it: tracking.mode decides"
        )
    if MODES.index(allowed) < MODES.index(mode):
        way_out = "tracking=none" if allowed == "disabled" else f"tracking.mode={allowed}"
        return Issue(
            "tracking.mode", f"{mode}, but WANDB_MODE={asked} forbids it; use {way_out} or unset WANDB_MODE"
        )
    return None


def _server() -> str:
    """Where wandb would go: by the environment, its settings file, or the default of its version."""
    if chosen := os.environ.get("WANDB_BASE_URL"):
        return chosen
    folder = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    settings = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(configparser.Error):  # wandb itself reports a broken settings file
        settings.read(Path(folder).expanduser() / "settings", encoding="utf-8")
    if settings.has_option("default", "base_url"):
        return settings.get("default", "base_url")
    import wandb

    return str(wandb.Settings().base_url)


# ---- which run of wandb's ----------------------------------------------------------------------------------------

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
