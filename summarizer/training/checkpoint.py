"""A trial's state on disk, whole or not at all: what `resume` needs to continue to the last bit.

Data order, dropout and learning rate are functions of the seed and the step, so that the parameters, the
optimizer and `TrainerState` are all there is to save.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from summarizer import atomic
from summarizer.config.messages import shown
from summarizer.console.safe_text import one_line
from summarizer.console.secrets import masked
from summarizer.digests import check_digests, write_digests
from summarizer.errors import ConfigError
from summarizer.files import own_folder, read_own
from summarizer.json_files import parse_json
from summarizer.training.checkpoint_folders import STATE, list_checkpoints, step_of
from summarizer.training.trial import TrainerState, Trial

CONFIG = "config.json"
"""The config that the run trained by until then."""
MAY_BE_NEGATIVE = ("first_loss", "last_loss", "val_loss", "last_value", "best_value")
MOST_NAMED = 3
"""How many changed keys of a config are named."""


def save_checkpoint(trial: Trial) -> Path:
    """Write the trial's state as `checkpoints/step-N` and delete the oldest beyond `trainer.keep_checkpoints`.

    Raises WriteError, leaving the earlier checkpoints as they were.
    """
    name = f"step-{trial.state.step:08d}"
    with own_folder(trial.checkpoints) as checkpoints:
        with atomic.new_folder(checkpoints / name, held=True) as scratch:
            values = {name: p.detach().cpu().contiguous() for name, p in trial.parameters.items()}
            atomic.write_tensors(scratch / "adapter.safetensors", values)
            if trial.best is not None:
                atomic.write_tensors(scratch / "best.safetensors", trial.best)
            assert trial.optimizer is not None
            save_state(trial.optimizer.state_dict(), scratch / "optimizer")
            (scratch / STATE).write_text(json.dumps(asdict(trial.state)), encoding="utf-8")
            (scratch / CONFIG).write_text(json.dumps(_flat(_config_of(trial))), encoding="utf-8")
            write_digests(scratch, [file.name for file in scratch.iterdir()])
        trial.saved_step = trial.state.step
        for old in list_checkpoints(checkpoints)[: -trial.spec.trainer.keep_checkpoints]:
            shutil.rmtree(old)
    return trial.checkpoints / name


def require_checkpoint(trial: Trial) -> None:
    """See, before any weight is read, whether a resumed trial has a checkpoint to take up: by digests and states.

    Raises ConfigError where checkpoints exist but none can be read.
    """
    refused = []
    for folder in reversed(list_checkpoints(trial.checkpoints)):
        try:
            check_digests(folder)
            _read_state(folder, trial.schedule.total_steps)
        except (OSError, ValueError) as error:
            refused.append(f"{folder.name}: {one_line(_reason(error))}")
        else:
            return
    _require_none(refused, trial.checkpoints)


def load_latest(trial: Trial) -> None:
    """Put the trial where its newest readable checkpoint was; without one it starts anew.

    Removes what a kill left half-written. Raises ConfigError where checkpoints exist but none can be read.
    """
    if not trial.checkpoints.is_dir():
        return
    with own_folder(trial.checkpoints) as checkpoints:
        atomic.remove_scratch(checkpoints)
    refused = []
    for folder in reversed(list_checkpoints(trial.checkpoints)):
        try:
            if not check_digests(folder):
                trial.say(
                    logging.WARNING, "checkpoint %s is of an earlier version: it has no digests", folder.name
                )
            _load(trial, folder)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            reason = one_line(_reason(error))
            trial.say(
                logging.WARNING,
                "checkpoint %s cannot be read, trying the one before: %s",
                folder.name,
                reason,
            )
            refused.append(f"{folder.name}: {reason}")
            continue
        trial.say(logging.INFO, "resuming from %s", folder.name)
        _say_what_changed(trial, folder)
        return
    _require_none(refused, trial.checkpoints)


def _require_none(refused: Sequence[str], folder: Path) -> None:
    """refused: the checkpoints of a folder that has no other, each with why it cannot be read."""
    if refused:
        raise ConfigError.single(
            "resume",
            f"none of the {len(refused)} checkpoints in {folder} can be read ({'; '.join(refused)}); "
            "delete that folder, and the run is resumed from its beginning",
        )


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return (
        f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    )


def _load(trial: Trial, folder: Path) -> None:
    assert trial.optimizer is not None
    state = _read_state(folder, trial.schedule.total_steps)
    values = load_file(folder / "adapter.safetensors")
    best_file = folder / "best.safetensors"
    best = load_file(best_file) if best_file.is_file() else None
    optimizer_state = load_state(folder / "optimizer")
    for tensors in (values, best):
        if tensors is not None and tensors.keys() != trial.parameters.keys():
            raise ValueError("it holds other layers than this run adapts")
        for name, parameter in trial.parameters.items():
            if tensors is not None and tensors[name].shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(tensors[name].shape)}, not {tuple(parameter.shape)}")
    with torch.no_grad():
        for name, parameter in trial.parameters.items():
            parameter.copy_(values[name])
    trial.optimizer.load_state_dict(optimizer_state)
    trial.best, trial.state, trial.saved_step = best, state, state.step


def _read_state(folder: Path, total_steps: int) -> TrainerState:
    """How far the trial had come. Raises OSError, or ValueError for what cannot be: a step of text, one below 0."""
    try:
        state = TypeAdapter(TrainerState).validate_json(read_own(folder / STATE))
    except ValidationError as error:
        mistake = error.errors()[0]
        where = ".".join(map(str, mistake["loc"]))
        raise ValueError(
            f"{STATE}: {where}: {mistake['msg']}" if where else f"{STATE}: {mistake['msg']}"
        ) from error
    for name, value in asdict(state).items():
        if value is not None and name not in MAY_BE_NEGATIVE and not 0 <= value < 2**63:
            raise ValueError(f"{STATE}: {name} is {value}")
    if state.step != step_of(folder):
        raise ValueError(f"{STATE}: step is {state.step}")
    if state.step > total_steps:
        raise ValueError(f"it is of step {state.step:,}, but the run asks for {total_steps:,}")
    if late := [name for name in ("evaluated_step", "best_step") if (getattr(state, name) or 0) > state.step]:
        raise ValueError(f"{STATE}: {late[0]} is after step {state.step}")
    return state


# ---- the config beside it: a run is resumed as it was begun, or what changed is said ----------------------------


def _config_of(trial: Trial) -> dict[str, Any]:
    config = trial.spec.model_dump(mode="json", serialize_as_any=True)
    optimizer = trial.spec.optimizer
    config["optimizer"] = {"_target_": optimizer.target, **config["optimizer"]["arguments"]}  # as it is typed
    return masked(config)


def _flat(node: Any, key: str = "") -> dict[str, Any]:
    """A nested config by dotted keys; lists are values."""
    if not isinstance(node, Mapping):
        return {key: node}
    return {
        name: value
        for part, inner in node.items()
        for name, value in _flat(inner, f"{key}.{part}" if key else str(part)).items()
    }


def _say_what_changed(trial: Trial, folder: Path) -> None:
    """Remark on keys of the run folder's config that are not as the checkpoint was trained by."""
    if not (folder / CONFIG).is_file():  # of an earlier version
        return
    try:
        before = parse_json(read_own(folder / CONFIG))
    except (OSError, ValueError) as error:
        trial.say(
            logging.WARNING, "%s of %s cannot be read: %s", CONFIG, folder.name, one_line(_reason(error))
        )
        return
    changed = list(_changes(before if isinstance(before, dict) else {}, _flat(_config_of(trial))))
    if changed:
        more = f", and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
        text = "the run's config was changed after %s was saved, and is followed as it is now: %s"
        trial.say(logging.WARNING, text, folder.name, ", ".join(changed[:MOST_NAMED]) + more)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*now, *before]):
        if key not in before and not key.startswith("optimizer."):
            continue  # the version that saved it had no such key; but arguments of an optimizer are typed at will
        if before.get(key) != now.get(key):
            yield one_line(f"{key} was {shown(before.get(key))}, now {shown(now.get(key))}")


# ---- an optimizer's state: tensors in one file, everything else as JSON; no pickle, hence no code to run --------


def save_state(state: Any, stem: Path) -> None:
    """Write nested dicts, lists, tuples, tensors and plain values as `stem`.safetensors and `stem`.json."""
    tensors: dict[str, Tensor] = {}
    tree = _packed(state, tensors)
    atomic.write_tensors(stem.with_suffix(".safetensors"), tensors)
    stem.with_suffix(".json").write_text(json.dumps(tree), encoding="utf-8")


def load_state(stem: Path) -> Any:
    """What `save_state` wrote, types and bits unchanged. Raises OSError, ValueError or SafetensorError."""
    tree = parse_json(read_own(stem.with_suffix(".json")))
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


def _unpacked(node: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(node, dict) or len(node) != 1:
        raise ValueError("optimizer.json is not as a checkpoint has it")
    ((kind, content),) = node.items()
    if kind == "tensor":
        if content not in tensors:
            raise ValueError("optimizer.json names a tensor that optimizer.safetensors has not")
        return tensors[content]
    if kind == "dict":
        return {key: _unpacked(value, tensors) for key, value in content}
    if kind == "list":
        return [_unpacked(value, tensors) for value in content]
    if kind == "tuple":
        return tuple(_unpacked(value, tensors) for value in content)
    return content
