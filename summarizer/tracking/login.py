"""Whether `tracking.mode=online` can work, found out before any weight loads."""

from __future__ import annotations

import configparser
import contextlib
import os
from pathlib import Path

from summarizer.config.specs import TrackingSpec
from summarizer.errors import Issue


def check_tracking(spec: TrackingSpec) -> list[Issue]:
    """One issue if the run is to be tracked online and nobody is logged in; nothing is sent anywhere.

    A key may come from WANDB_API_KEY, WANDB_IDENTITY_TOKEN_FILE or the netrc file that `wandb login` writes.
    """
    if spec.mode != "online":
        return []
    given = [name for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE") if os.environ.get(name)]
    if len(given) == 2:
        return [
            Issue("tracking.mode", f"online: wandb takes one of {' and '.join(given)}, not both; unset one")
        ]
    if given or _in_netrc():
        return []
    ways_out = "run `wandb login`, set WANDB_API_KEY or use tracking.mode=offline"
    return [Issue("tracking.mode", f"online: no key for {_server()}; {ways_out}")]


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


def _in_netrc() -> bool:
    # wandb's own reader: it knows which of its servers share a key.
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib.wbauth import read_netrc_auth

    try:
        return read_netrc_auth(host=_server()) is not None
    except AuthenticationError:
        return False  # what is there cannot be a key
