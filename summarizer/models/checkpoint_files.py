"""A pretrained checkpoint, tensor by tensor: safetensors or old PyTorch files, memory-mapped."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from summarizer.errors import ConfigError

KEY = "model.name_or_path"
log = logging.getLogger(__name__)


def checkpoint_files(folder: Path) -> list[Path]:
    """The weight files of a model folder, safetensors preferred. Raises ConfigError where one is missing."""
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / index).is_file():
            names = _indexed(folder / index)
            if missing := [name for name in names if not (folder / name).is_file()]:
                raise ConfigError.single(
                    KEY,
                    f"{folder} lacks {len(missing)} of its {len(names)} weight files, such as {missing[0]}",
                )
            return [folder / name for name in names]
        if (folder / single).is_file():
            return [folder / single]
    raise ConfigError.single(KEY, f"{folder} holds no model.safetensors and no pytorch_model.bin")


def _indexed(index: Path) -> list[str]:
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        # An index from elsewhere cannot point outside its folder.
        return sorted({Path(name).name for name in named})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError.single(KEY, f"{index} is not an index of weight files: {error!r}") from error


def read_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of one file, memory-mapped where the file allows it.

    Raises ConfigError on a truncated or foreign file. A pickle is read with `weights_only=True`: no code
    runs.
    """
    if file.stat().st_size == 0:
        raise ConfigError.single(KEY, f"{file} is empty")
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict: it has no iterator
                    yield name, tensors.get_tensor(name)
        except SafetensorError as error:
            raise ConfigError.single(KEY, f"{file} is truncated or not safetensors: {error}") from error
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
