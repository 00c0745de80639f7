"""A trial's state on disk, whole or not at all: what `resume` needs to go on to the last bit.

Data order, dropout and learning rate are functions of the seed and the step, so that the parameters, the
optimizer and `Reached` are all there is to save.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from summarizer import atomic
from summarizer.errors import ConfigError
from summarizer.training.state_file import load_state, save_state
from summarizer.training.trial import Reached, Trial


def save_checkpoint(trial: Trial) -> Path:
    """Write the trial's state as `checkpoints/step-N` and delete the oldest beyond `trainer.keep_checkpoints`.

    Raises OSError, leaving the earlier checkpoints as they were.
    """
    folder = trial.checkpoints / f"step-{trial.reached.step:08d}"
    with atomic.new_folder(folder) as scratch:
        values = {name: p.detach().cpu().contiguous() for name, p in trial.parameters.items()}
        atomic.write_tensors(scratch / "adapter.safetensors", values)
        if trial.best is not None:
            atomic.write_tensors(scratch / "best.safetensors", trial.best)
        save_state(trial.optimizer.state_dict(), scratch / "optimizer")
        (scratch / "reached.json").write_text(json.dumps(trial.reached.as_dict()), encoding="utf-8")
    trial.saved_step = trial.reached.step
    for old in list_checkpoints(trial.checkpoints)[: -trial.spec.trainer.keep_checkpoints]:
        shutil.rmtree(old)
    return folder


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "reached.json").is_file())


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which it was saved."""
    return int(checkpoint.name.removeprefix("step-"))


def load_latest(trial: Trial) -> None:
    """Put the trial where its newest readable checkpoint was; without one it starts anew.

    Removes what a kill left half-written. Raises ConfigError where checkpoints exist but none can be read.
    """
    if not trial.checkpoints.is_dir():
        return
    atomic.remove_scratch(trial.checkpoints)
    found = list_checkpoints(trial.checkpoints)
    for folder in reversed(found):
        try:
            _load(trial, folder)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            trial.say(
                logging.WARNING,
                "checkpoint %s cannot be read, trying the one before: %s",
                folder.name,
                error,
            )
            continue
        trial.say(logging.INFO, "resuming from %s", folder.name)
        return
    if found:
        raise ConfigError.single(
            "resume", f"none of the {len(found)} checkpoints in {trial.checkpoints} can be read"
        )


def _load(trial: Trial, folder: Path) -> None:
    reached = Reached(**json.loads((folder / "reached.json").read_text(encoding="utf-8")))
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
    trial.best, trial.reached, trial.saved_step = best, reached, reached.step
