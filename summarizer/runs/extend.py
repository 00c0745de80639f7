"""`resume=RUN trainer.epochs=6`: a run goes on to other limits, exactly as if they had been asked for at its start.

Parameters, optimizer and counters come from its checkpoint, data order and dropout are functions of seed and step.
What is left is the learning rate, which must not have depended on the old limits, and the evaluation at the old
end, which is done again only where the new limits ask for one there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from summarizer.config.paths import shown
from summarizer.config.schema import RunConfig
from summarizer.errors import ConfigError
from summarizer.files import read_own
from summarizer.json_files import parse_json
from summarizer.runs.preflight import preflight
from summarizer.runs.record import SUMMARY, RunRecord, read_summary
from summarizer.training.checkpoint_folders import STATE, list_checkpoints, step_of
from summarizer.training.schedule import total_steps

LIMITS = ("trainer.epochs", "trainer.max_steps")
"""What a run can be resumed with: it says when the run ends, and changes nothing before."""


def extended(record: RunRecord, overrides: Sequence[str]) -> RunRecord:
    """A run to be resumed with other limits, which its folder takes up when it begins.

    overrides: of LIMITS, as `require_limits` has it.
    Raises ConfigError, with what to do instead, where it would not be the run that they make from the start.
    """
    typed = " ".join(overrides)
    if record.sweep is not None:
        text = (
            f"{_shown(record)} is a run of a sweep, whose runs are ranked at their limits; copy the folder "
        )
        raise ConfigError.single("resume", f"{text}out of the sweep and resume the copy, with {typed}")
    trainer = {**record.config["trainer"], **limits_of(overrides)}
    config = {**record.config, "trainer": trainer}
    before, now = (preflight(OmegaConf.create(one)) for one in (record.config, config))
    ended = read_summary(record.path) if (record.path / SUMMARY).is_file() else None
    if ended is None or not ended.steps:
        _require_same_rates(record, before, overrides)
    elif (steps := _asked_for(ended, now)) != _asked_for(ended, before):
        _require_further(record, ended, steps, overrides)
        checkpoints = _require_same_rates(record, before, overrides)
        if ended.status == "completed":
            if not checkpoints:
                text = f"{_shown(record)} has no checkpoint to go on from; {_anew(record, overrides)}"
                raise ConfigError.single("resume", text)
            _require_regular_evaluation(record, ended, before)
    elif ended.status == "completed":
        hint = ": trainer.max_steps ends it; add trainer.max_steps=null" if trainer["max_steps"] else ""
        text = f"with {typed} {_shown(record)} is complete, at step {ended.steps}{hint}"
        raise ConfigError.single("resume", text)
    kept = [text for text in record.overrides if _key(text) not in map(_key, overrides)]
    return record.model_copy(
        update={"config": config, "overrides": (*kept, *overrides), "resumed_with": tuple(overrides)}
    )


def limits_of(overrides: Sequence[str]) -> dict[str, Any]:
    """The values by key below `trainer`, of overrides that `require_limits` has passed."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {one.key_or_group.removeprefix("trainer."): one.value() for one in parsed}


def require_limits(overrides: Sequence[str]) -> None:
    """Raises ConfigError for all that is not one value of a limit."""
    if wrong := [text for text in overrides if not _is_limit(text)]:
        text = f"continues the run as it was configured, but for {' and '.join(LIMITS)}"
        raise ConfigError.single("resume", f"{text}; leave out {' '.join(wrong)}")


def _is_limit(text: str) -> bool:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    single = not (override.is_sweep_override() or override.is_delete() or override.is_add())
    return single and override.key_or_group in LIMITS


def _require_further(record: RunRecord, ended: RunRecord, steps: int, overrides: Sequence[str]) -> None:
    """Raises where a run has come as far as it would with `steps` to train, or further."""
    typed = " ".join(overrides)
    if ended.steps and steps < ended.steps:
        text = f"{_shown(record)} has trained for {ended.steps} steps, and {typed} asks for {steps}"
        raise ConfigError.single("resume", f"{text}; ask for more, or start a run with {typed}")
    if ended.ended_by == "early_stopping":
        text = f"early stopping ended {_shown(record)} at step {ended.steps}, as it would with {typed}"
        raise ConfigError.single("resume", f"{text}; {_anew(record, ())}")


def _require_same_rates(record: RunRecord, before: RunConfig, overrides: Sequence[str]) -> list[Path]:
    """The run's checkpoints. Raises where the steps until then had rates that depend on the end."""
    checkpoints = list_checkpoints(record.path / "checkpoints")
    schedule = before.trainer.schedule
    falls = schedule.name != "constant" and schedule.final_fraction != 1.0
    if checkpoints and falls and step_of(checkpoints[-1]) > max(schedule.warmup_steps, 1):
        text = (
            f"the learning rate of {_shown(record)} falls to the end that it was told at its start "
            f"(trainer.schedule.name={schedule.name}), and would have been another with {' '.join(overrides)}"
        )
        raise ConfigError.single("resume", f"{text}; {_anew(record, overrides)}")
    return checkpoints


def _require_regular_evaluation(record: RunRecord, ended: RunRecord, before: RunConfig) -> None:
    """Earlier versions saved a run after the evaluation at its end, which a longer run may not have."""
    checkpoints = list_checkpoints(record.path / "checkpoints")
    every = before.trainer.evaluate_every_steps or _steps_per_epoch(ended)
    if every and ended.steps and ended.steps % every == 0:
        return
    try:
        state = parse_json(read_own(checkpoints[-1] / STATE))
    except (OSError, ValueError):
        return  # the run says so itself, and takes the one before
    if isinstance(state, Mapping) and state.get("evaluated_step") == state.get("step") == ended.steps:
        text = (
            f"{shown(checkpoints[-1])}, of an earlier version, has an evaluation that only the end asked for"
        )
        instead = "delete it, and the one before is taken" if checkpoints[1:] else _anew(record, ())
        raise ConfigError.single("resume", f"{text}; {instead}")


def _asked_for(ended: RunRecord, spec: RunConfig) -> int:
    """The steps that limits come to."""
    return total_steps(spec.trainer, _steps_per_epoch(ended))


def _steps_per_epoch(ended: RunRecord) -> int | None:
    """Of a run that trained; None for a streamed split, which counts no epochs."""
    return round(ended.steps / ended.epochs) if ended.steps and ended.epochs else None


def _anew(record: RunRecord, overrides: Sequence[str]) -> str:
    wanted = f" with {' '.join(overrides)}" if overrides else ""
    return f"start a run{wanted}, or one from its adapter by adapter.start_from={_shown(record)}/adapter"


def _key(text: str) -> str:
    return text.partition("=")[0]


def _shown(record: RunRecord) -> str:
    return shown(record.path)
