"""A trial's state on disk, whole or not at all: what `resume` needs to continue to the last bit.

Data order, dropout and learning rate are functions of the seed and the step, so that the parameters, the
optimizer and `TrainerState` are all there is to save.
"""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from summarizer import atomic
from summarizer.digests import check_digests, write_digests
from summarizer.errors import ConfigError
from summarizer.training.trial import TrainerState, Trial

STATE = "reached.json"
"""The `TrainerState`, under the name that it has had since the first version."""


def save_checkpoint(trial: Trial) -> Path:
    """Write the trial's state as `checkpoints/step-N` and delete the oldest beyond `trainer.keep_checkpoints`.

    Raises OSError, leaving the earlier checkpoints as they were.
    """
    folder = trial.checkpoints / f"step-{trial.state.step:08d}"
    with atomic.new_folder(folder) as scratch:
        values = {name: p.detach().cpu().contiguous() for name, p in trial.parameters.items()}
        atomic.write_tensors(scratch / "adapter.safetensors", values)
        if trial.best is not None:
            atomic.write_tensors(scratch / "best.safetensors", trial.best)
        assert trial.optimizer is not None
        save_state(trial.optimizer.state_dict(), scratch / "optimizer")
        (scratch / STATE).write_text(json.dumps(asdict(trial.state)), encoding="utf-8")
        write_digests(scratch, [file.name for file in scratch.iterdir()])
    trial.saved_step = trial.state.step
    for old in list_checkpoints(trial.checkpoints)[: -trial.spec.trainer.keep_checkpoints]:
        shutil.rmtree(old)
    return folder


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, damaged ones among them, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.name[5:].isdecimal() and path.is_dir())


def newest_step(folder: Path) -> int:
    """The optimizer step of the newest checkpoint that is not damaged; 0 without one."""
    for checkpoint in reversed(list_checkpoints(folder)):
        with suppress(OSError, ValueError):
            check_digests(checkpoint)
            return int(checkpoint.name.removeprefix("step-"))
    return 0


def load_latest(trial: Trial) -> None:
    """Put the trial where its newest readable checkpoint was; without one it starts anew.

    Removes what a kill left half-written. Raises ConfigError where checkpoints exist but none can be read.
    """
    if not trial.checkpoints.is_dir():
        return
    atomic.remove_scratch(trial.checkpoints)
    refused = []
    for folder in reversed(list_checkpoints(trial.checkpoints)):
        try:
            if not check_digests(folder):
                trial.say(
                    logging.WARNING, "checkpoint %s is of an earlier version: it has no digests", folder.name
                )
            _load(trial, folder)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            trial.say(
                logging.WARNING,
                "checkpoint %s cannot be read, trying the one before: %s",
                folder.name,
                error,
            )
            refused.append(f"{folder.name}: {error}")
            continue
        trial.say(logging.INFO, "resuming from %s", folder.name)
        return
    if refused:
        raise ConfigError.single(
            "resume",
            f"none of the {len(refused)} checkpoints in {trial.checkpoints} can be read ({'; '.join(refused)}); "
            "delete that folder, and the run is resumed from its beginning",
        )


def _load(trial: Trial, folder: Path) -> None:
    assert trial.optimizer is not None
    state = TrainerState(**json.loads((folder / STATE).read_text(encoding="utf-8")))
    values = load_file(folder / "adapter.safetensors")
    best_file = folder / "best.safetensors"
    best = load_file(best_file) if best_file.is_file() else None
    optimizer_state = load_state(folder / "optimizer")
    if values.keys() != trial.parameters.keys():
        raise ValueError("it holds other layers than this run adapts")
    with torch.no_grad():
        for name, parameter in trial.parameters.items():
            if values[name].shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(values[name].shape)}, not {tuple(parameter.shape)}")
            parameter.copy_(values[name])
    trial.optimizer.load_state_dict(optimizer_state)
    trial.best, trial.state, trial.saved_step = best, state, state.step


# ---- an optimizer's state: tensors in one file, everything else as JSON; no pickle, hence no code to run --------


def save_state(state: Any, stem: Path) -> None:
    """Write nested dicts, lists, tuples, tensors and plain values as `stem`.safetensors and `stem`.json."""
    tensors: dict[str, Tensor] = {}
    tree = _packed(state, tensors)
    atomic.write_tensors(stem.with_suffix(".safetensors"), tensors)
    stem.with_suffix(".json").write_text(json.dumps(tree), encoding="utf-8")


def load_state(stem: Path) -> Any:
    """What `save_state` wrote, types and bits unchanged. Raises OSError, ValueError or SafetensorError."""
    tree = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    return _unpacked(tree, load_file(stem.with_suffix(".safetensors")))


def _packed(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        name = str(len(tensors))
        tensors[name] = node.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(node, dict):
        # Optimizers key their state by number, which a JSON object would turn into text.
        return {"dict": [[key, _packed(value, tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return {type(node).__name__: [_packed(value, tensors) for value in node]}
    if node is None or isinstance(node, bool | int | float | str):
        return {"value": node}
    raise TypeError(f"{type(node).__name__} in an optimizer's state cannot be saved")


def _unpacked(node: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpacked(value, tensors) for key, value in content}
    if kind == "list":
        return [_unpacked(value, tensors) for value in content]
    if kind == "tuple":
        return tuple(_unpacked(value, tensors) for value in content)
    return content
