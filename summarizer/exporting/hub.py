"""`--push-to-hub`: an exported folder as a new repository of the Hugging Face hub, by its public upload API.

Nothing here is called unless a person asked for it by that flag. `HF_ENDPOINT` names another hub, and the token is
the one that `hf auth login` keeps, or `HF_TOKEN`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from summarizer.errors import ConfigError, Issue

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FLAG = "--push-to-hub"
UNAUTHORIZED, FORBIDDEN, CONFLICT = 401, 403, 409


def naming_issues(name: str) -> Iterator[Issue]:
    """What stands against pushing to a repository of this name, as far as that is seen without the hub."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not in __all__

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        yield Issue(FLAG, f"{name!r} cannot be a repository's name: {' '.join(str(error).split())}")
    if get_token() is None:
        yield Issue(FLAG, "needs a token that may write: `hf auth login`, or HF_TOKEN in the environment")


def free_name(name: str) -> str:
    """The whole name, with its owner, of a repository that is not there yet.

    Raises ConfigError where it is, or the hub cannot be asked.
    """
    with _said(name):
        api = _api()
        whole = name if "/" in name else f"{api.whoami()['name']}/{name}"
        if api.repo_exists(whole):
            raise ConfigError.single(FLAG, _taken(whole))
    return whole


def push(folder: Path, name: str, *, private: bool) -> str:
    """Make a repository of this name, upload a folder into it, and return its address.

    Raises ConfigError where the hub refuses or cannot be reached; the folder stays as it is.
    """
    api = _api()
    with _said(name, f"; {folder} is whole, and `hf upload {name} {folder}` pushes it"):
        address = api.create_repo(name, private=private)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export of a trained run")
    return str(address)


def _api() -> HfApi:
    """The hub, whose library is to keep its bars and a line for each request to itself."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # likewise

    disable_progress_bars()
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    return HfApi(endpoint=endpoint())


def endpoint() -> str | None:
    """The hub's address; None for the one that its library names."""
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def _said(name: str, way_on: str = "") -> Iterator[None]:
    """Turn what the hub's library raises into one line that says what it means."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # Of httpx or of httpx2, as the library has it: what it raises where nobody answers.
    unanswered: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except HfHubHTTPError as error:
        raise ConfigError.single(FLAG, _refused(error, name) + way_on) from error
    except (unanswered, OfflineModeIsEnabled, ConnectionError, TimeoutError) as error:
        where = endpoint() or "https://huggingface.co"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError.single(FLAG, f"{where} cannot be reached: {reason}{way_on}") from error


def _refused(error: Exception, name: str) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == UNAUTHORIZED:
        return "the hub does not know the token; `hf auth login` with one that may write"
    if status == FORBIDDEN:
        return f"the token may not write to {name}: it is for reading alone, or the name's owner is another"
    if status == CONFLICT:
        return _taken(name)
    said = getattr(error, "server_message", None) or str(error).splitlines()[0]
    return f"the hub refused: {said}"


def _taken(name: str) -> str:
    return f"{name} is taken, and nothing of it is overwritten; name another repository"
