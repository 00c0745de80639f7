"""Where a model's files are: inside the package, in a folder, or on the hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from summarizer.config.paths import EMBEDDED_SCHEME, PACKAGE, resolve_path
from summarizer.config.schema import ModelConfig
from summarizer.console.progress import library_bars
from summarizer.errors import ConfigError, Issue, suggestion

EMBEDDED_ROOT = "models/embedded"
KEY = "model.name_or_path"

log = logging.getLogger(__name__)

_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


def check_model_path(name_or_path: str) -> Iterator[Issue]:
    """What is seen to be wrong with a model's path without reading a weight. A hub name is not looked up."""
    if name_or_path.startswith(EMBEDDED_SCHEME):
        if not resolve_path(name_or_path, EMBEDDED_ROOT).is_dir():
            embedded = [
                EMBEDDED_SCHEME + path.name for path in (PACKAGE / EMBEDDED_ROOT).iterdir() if path.is_dir()
            ]
            yield Issue(KEY, f"{name_or_path!r} is not in the package{suggestion(name_or_path, embedded)}")
        return
    path = resolve_path(name_or_path, EMBEDDED_ROOT)
    if path.is_dir():
        if not (path / "config.json").is_file():
            yield Issue(KEY, f"{name_or_path!r} is a folder without config.json; a model folder has one")
    elif path.exists():
        yield Issue(KEY, f"{name_or_path!r} is a file; give the folder that holds it and its config.json")
    elif name_or_path.startswith(("/", "./", "../", "~")) or name_or_path.count("/") > 1:
        yield Issue(KEY, f"no folder at {name_or_path!r}")


def model_folder(spec: ModelConfig, *, weights: bool = True) -> Path:
    """The local folder with the model's files, downloaded from the hub where it is not there yet.

    weights: False fetches only config and tokenizer. Raises ConfigError where the model cannot be had.
    """
    path = resolve_path(spec.name_or_path, EMBEDDED_ROOT)
    if path.is_dir():
        return path
    return _download(spec, weights=weights)


def _download(spec: ModelConfig, *, weights: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download, utils

    try:
        patterns = list(_SMALL_FILES)
        if weights:
            files = HfApi().list_repo_files(spec.name_or_path, revision=spec.revision)
            kind = (
                "*.safetensors"
                if any(file.endswith(".safetensors") for file in files)
                else "pytorch_model*.bin"
            )
            patterns.append(kind)
        with library_bars(f"downloading {spec.name_or_path}", utils):
            return Path(snapshot_download(spec.name_or_path, revision=spec.revision, allow_patterns=patterns))
    except Exception as error:  # of whatever library the hub's own takes for its transport, which changes
        cached = _downloaded_before(spec)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if cached is not None:
            log.warning(
                "base model: the hub does not give %s (%s); revision %s is used, downloaded before",
                *(spec.name_or_path, reason, cached.name),
            )
            return cached
        raise ConfigError.single(
            KEY,
            f"{spec.name_or_path!r} is no folder in {Path.cwd()} and cannot be fetched from the hub ({reason}); "
            "give a folder (a run looks for its base where its config says, relative to where you are), "
            "or model=tiny_gptj, which is inside the package",
        ) from error


def _downloaded_before(spec: ModelConfig) -> Path | None:
    """The hub's files on this disk, for a machine without a network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(spec.name_or_path, revision=spec.revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
    return found if (found / "config.json").is_file() else None
