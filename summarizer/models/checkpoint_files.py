"""A pretrained checkpoint, tensor by tensor: safetensors or old PyTorch files, memory-mapped."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from summarizer.errors import ConfigError

KEY = "model.name_or_path"
INDEX = ".index.json"
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a folder's weights are called, safetensors first; with INDEX behind it, a list of shards."""
log = logging.getLogger(__name__)


def checkpoint_files(folder: Path) -> list[Path]:
    """The weight files of a model folder: those that `from_pretrained` would read.

    safetensors come before old files, and a single file comes before an index of shards. A config may name another
    file of the folder. Raises ConfigError where one is missing.
    """
    named = _named_by_config(folder)
    for single in (named,) if named else SINGLE_FILES:
        if (folder / single).is_file() and not single.endswith(INDEX):
            return [folder / single]
        index = folder / (single.removesuffix(INDEX) + INDEX)
        if index.is_file():
            names = _indexed(index)
            if missing := [name for name in names if not (folder / name).is_file()]:
                raise ConfigError.single(
                    KEY,
                    f"{folder} lacks {len(missing)} of its {len(names)} weight files, such as {missing[0]}",
                )
            return [folder / name for name in names]
    raise ConfigError.single(KEY, f"{folder} holds no {named or ' and no '.join(SINGLE_FILES)}")


def _named_by_config(folder: Path) -> str | None:
    """The `transformers_weights` of a config: the one file, or index of files, that is to be read."""
    try:
        named = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("transformers_weights")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None  # `load_config` says what is wrong with it
    if named is None:
        return None
    if not isinstance(named, str) or Path(named).name != named:
        raise ConfigError.single(
            KEY, f"{folder}/config.json: transformers_weights={named!r} is no file of the folder"
        )
    return named


def say_what_is_not_read(folder: Path) -> None:
    """A line where a folder holds a second set of weights of the same kind, such as an index that was left over."""
    files = checkpoint_files(folder)
    index = folder / f"{files[0].name}{INDEX}"
    if len(files) == 1 and index.is_file():
        try:
            others = [name for name in _indexed(index) if (folder / name) not in files]
        except ConfigError:
            others = []
        if others:
            log.warning(
                "base model: %s is read, as transformers reads it; %s, which names %d other files, is not",
                *(files[0], index.name, len(others)),
            )


def _indexed(index: Path) -> list[str]:
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        # An index from elsewhere cannot point outside its folder.
        return sorted({Path(name).name for name in named})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError.single(KEY, f"{index} is not an index of weight files: {error!r}") from error


class Tensors(ABC):
    """Named tensors of a model folder, read one at a time."""

    folder: Path

    @property
    @abstractmethod
    def names(self) -> list[str]: ...

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Each tensor, in an order that reads each file once."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """One of them. Raises KeyError where there is none of that name."""


class Checkpoint(Tensors):
    """The tensors of a model folder: their names first, each one's numbers when its turn comes.

    Raises ConfigError on a truncated or foreign file. A pickle is read with `weights_only=True`: no code runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = checkpoint_files(folder)
        self._file_of: dict[str, Path] = {}
        """Of each tensor, the last file that holds it, as transformers has it."""
        for file in self.files:
            self._file_of |= dict.fromkeys(_names(file), file)

    @property
    def names(self) -> list[str]:
        return list(self._file_of)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for file in self.files:
            for name, tensor in read_tensors(file):
                if self._file_of[name] == file:
                    yield name, tensor

    def read(self, name: str) -> Tensor:
        file = self._file_of[name]
        if file.suffix != ".safetensors":
            return _read_pickle(file)[name]
        with safe_open(file, framework="pt") as tensors:
            found: Tensor = tensors.get_tensor(name)
            return found


def _names(file: Path) -> list[str]:
    if file.stat().st_size == 0:
        raise ConfigError.single(KEY, f"{file} is empty")
    if file.suffix != ".safetensors":
        return list(_read_pickle(file))
    try:
        with safe_open(file, framework="pt") as tensors:
            return list(tensors.keys())
    except SafetensorError as error:
        raise ConfigError.single(KEY, f"{file} is truncated or not safetensors: {error}") from error


def read_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of one file. Raises as `Checkpoint` does."""
    if file.suffix == ".safetensors":
        names = _names(file)
        with safe_open(file, framework="pt") as tensors:
            for name in names:
                yield name, tensors.get_tensor(name)
        return
    yield from _read_pickle(file).items()


def _read_pickle(file: Path) -> dict[str, Tensor]:
    try:
        try:
            loaded = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            log.warning("%s predates PyTorch 1.6 and cannot be memory-mapped: it is read whole", file)
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # Torch's own words advise to load it with weights_only=False, which would run what the file says.
        reason = next(
            (line for line in str(error).splitlines() if "GLOBAL" in line), "it is no pickle of tensors"
        )
        raise ConfigError.single(
            KEY, f"{file} is truncated, or holds more than tensors, and is not read: {reason}"
        ) from error
    except Exception as error:  # torch.load raises whatever the broken bytes lead it to
        raise ConfigError.single(
            KEY, f"{file} is truncated or no PyTorch checkpoint ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(loaded, dict):
        raise ConfigError.single(KEY, f"{file} holds {type(loaded).__name__}, not named tensors")
    return {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
