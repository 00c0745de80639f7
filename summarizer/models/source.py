"""Where a model's files are: inside the package, in a folder, or on the hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from summarizer.config.paths import EMBEDDED_SCHEME, PACKAGE, resolve_path
from summarizer.config.schema import ModelConfig
from summarizer.console.progress import library_bars
from summarizer.errors import ConfigError, Issue, suggestion
from summarizer.files import read_own
from summarizer.json_files import parse_json

EMBEDDED_ROOT = "models/embedded"
KEY = "model.name_or_path"

log = logging.getLogger(__name__)

TOKEN_FILES = ("tokenizer.json", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json")
"""Files of a model folder that name its tokens."""
LARGEST_TOKENIZER_BYTES = 256 << 20
"""Some ten times the largest that there is."""
NO_GGUF = "which is llama.cpp's form and is not read here; give the Hugging Face folder that it was made from"

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
            yield Issue(KEY, f"{name_or_path!r} is {_no_model_folder(path)}")
    elif path.exists():
        yield Issue(KEY, f"{name_or_path!r} is {_no_folder(path)}")
    elif name_or_path.startswith(("/", "./", "../", "~")) or name_or_path.count("/") > 1:
        yield Issue(KEY, f"no folder at {name_or_path!r}")


def check_completion_token(name_or_path: str, token: str | None) -> Iterator[Issue]:
    """Whether the prompt asks a model's folder for a token of another model, as where `model=hf` was left out.

    The tokenizer is not loaded for it: its files are searched for the token. A hub name is not looked up.
    """
    folder = resolve_path(name_or_path, EMBEDDED_ROOT)
    if token is None or not (folder / "tokenizer.json").is_file():
        return
    written = {json.dumps(token).encode(), json.dumps(token, ensure_ascii=False).encode()}
    for name in TOKEN_FILES:
        try:
            content = read_own(folder / name, LARGEST_TOKENIZER_BYTES, links=True)
        except OSError:  # it may lack one; what is wrong with it is said where it is loaded
            continue
        if any(text in content for text in written):
            return
    yield Issue(
        "prompt.completion_token",
        f"{token!r} is no token of {name_or_path}",
        f"a model of your own takes model=hf model.name_or_path={name_or_path}",
    )


def _no_model_folder(path: Path) -> str:
    """What a folder without a model's config is, and what to give in its place."""
    if (path / ".hydra" / "config.yaml").is_file():
        return (
            "the folder of a run; give its base model, and to go on from its adapter "
            f"adapter.start_from={path / 'adapter'}"
        )
    if (path / "adapter_config.json").is_file():
        return (
            f"an adapter, no model; give its base model{_base_of(path)}, and to go on from it "
            f"adapter.start_from={path}"
        )
    if next(path.glob("*.gguf"), None) is not None:
        return f"a folder of GGUF files, {NO_GGUF}"
    return "a folder without config.json; a model folder has one"


def _no_folder(path: Path) -> str:
    """What a file is that stands in a model folder's place, and what to give instead."""
    if path.suffix.lower() == ".gguf":
        return f"a GGUF file, {NO_GGUF}"
    there = path.absolute().parent
    if (there / "config.json").is_file():
        return f"a file; give the folder that holds it: {KEY}={path.parent}"
    return "a file; give the folder that holds it and its config.json"


def _base_of(path: Path) -> str:
    """The base model that an adapter's own config names, in brackets; empty where it names none."""
    try:
        named = parse_json(read_own(path / "adapter_config.json", links=True))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" ({named})" if isinstance(named, str) and named else ""


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
