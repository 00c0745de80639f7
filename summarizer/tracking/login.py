"""Whether wandb and TensorBoard can be used here as `tracking` asks, known before any weight loads.

wandb itself is imported only where nothing else says which server it would go to.
"""

from __future__ import annotations

import configparser
import contextlib
import os
from pathlib import Path

from summarizer import compat
from summarizer.config.schema import TrackingConfig
from summarizer.errors import Issue
from summarizer.tracking.event_files import missing_package

MODES = ("disabled", "offline", "online")
"""What wandb may do, least first."""
OLD_MODES = {"dryrun": "offline", "run": "online"}
"""wandb's former names of them, which it still takes."""


def agent_sweep() -> str | None:
    """The id of the sweep whose agent, wandb's own, started this process. None for anyone else's process."""
    return os.environ.get("WANDB_SWEEP_ID") or None


def check_tracking(spec: TrackingConfig) -> list[Issue]:
    """An issue if wandb cannot be used as the config asks, and one if TensorBoard cannot; nothing is sent anywhere.

    Online needs a key, which may come from WANDB_API_KEY, WANDB_IDENTITY_TOKEN_FILE or the netrc file that
    `wandb login` writes. A run that an agent of wandb's sweeps started needs to be online. WANDB_MODE may not
    forbid what the config asks for; where it asks for more than the config does, the config decides.
    """
    missing = missing_package() if spec.tensorboard else None
    return [issue for issue in (_wandb_issue(spec), missing) if issue is not None]


def _wandb_issue(spec: TrackingConfig) -> Issue | None:
    if issue := _against_the_environment(spec.mode):
        return issue
    if spec.mode != "online":
        return None
    given = [name for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE") if os.environ.get(name)]
    if len(given) == 2:
        return Issue(
            "tracking.mode", f"online: wandb takes one of {' and '.join(given)}, not both; unset one"
        )
    if given or compat.has_wandb_key(_server()):
        return None
    ways_out = "run `wandb login`, set WANDB_API_KEY or use tracking.mode=offline"
    return Issue("tracking.mode", f"online: no key for {_server()}; {ways_out}")


def _against_the_environment(mode: str) -> Issue | None:
    if (sweep := agent_sweep()) and mode != "online":
        return Issue(
            "tracking.mode",
            f"{mode}: wandb's agent of the sweep {sweep} started this run and would never hear of its losses; "
            "put tracking.mode=online into the sweep's command",
        )
    wanted = os.environ.get("WANDB_MODE")
    if not wanted or mode == "disabled":
        return None
    allowed = OLD_MODES.get(wanted, wanted)
    if allowed not in MODES:
        return Issue(
            "WANDB_MODE", f"{wanted!r} is none of {', '.join(MODES)}; unset it: tracking.mode decides"
        )
    if MODES.index(allowed) < MODES.index(mode):
        way_out = "tracking=none" if allowed == "disabled" else f"tracking.mode={allowed}"
        return Issue(
            "tracking.mode", f"{mode}, but WANDB_MODE={wanted} forbids it; use {way_out} or unset WANDB_MODE"
        )
    return None


def _server() -> str:
    """The server that wandb would go to: by the environment, its settings file, or the default of its version."""
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
