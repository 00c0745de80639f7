"""`resume=SWEEP optimizer.lr=1e-4,1e-3,3e-3`: points that a sweep has not are planned, in its folder and its table.

The overrides are laid over those of the sweep's own command, key by key, and make the grid anew; what of it the
sweep has stays as it is. What is not swept is the same for every run, so that all can be ranked together; an
adapter, optimizer or seed of which all had one value until now is swept from there on. `~KEY` takes a swept key out
of the grid, for kinds that do not have it: `resume=SWEEP adapter=ia3 ~adapter.dim`.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from summarizer.atomic import write_text
from summarizer.config.diagnose import diagnose
from summarizer.config.messages import shown
from summarizer.config.paths import conf_folder
from summarizer.console.safe_text import one_line
from summarizer.console.secrets import MASK
from summarizer.errors import ConfigError, Issue
from summarizer.runs.folder import masked_node, write_prompt
from summarizer.runs.preflight import preflight
from summarizer.runs.record import RunRecord
from summarizer.runs.settings import flat, sweep_axes
from summarizer.sweeps.candidates import COMMAND_FILE
from summarizer.sweeps.compose import OWN_GROUPS, Combination, compose_batch, group_key
from summarizer.sweeps.record import SweepRecord, begin
from summarizer.yaml_files import REFERENCE, read_yaml

Point = tuple[tuple[str, str], ...]
"""A run's overrides, each key with its value, those of its sweep's defaults too."""

log = logging.getLogger(__name__)


def add_points(sweep: Path, record: SweepRecord, runs: Sequence[RunRecord], overrides: Sequence[str]) -> None:
    """Plan what the grid has and the sweep has not, as waiting runs; say which runs the grid has no more.

    sweep: its folder, in which no process is at work.  record, runs: what it has, and how that was configured.
    Raises ConfigError, nothing being written, for a setting that is not swept and is another now, and for mistakes
    in a new point.
    """
    command = _read_command(sweep)
    before = _parsed(_texts(command))
    given, left_out = _given(overrides)
    # The last command may have had one value of a key that earlier ones swept.
    swept = {*_swept(before), *sweep_axes(runs).keys, *filter(_is_of_a_trial, given)}
    _require_same_settings(command, before, given, swept)
    _require_swept(swept, left_out)
    merged = {key: one for key, one in {**before, **given}.items() if key not in left_out}
    swept |= _swept(merged)
    words = [override.input_line or "" for override in merged.values()]
    where = str(sweep).replace("\\", "\\\\").replace("'", "\\'")
    folder = f"hydra.sweep.dir='{where}'"
    with _composing([folder, *words]) as (loader, master):
        # A key that the grid has one value of is no default of the runs that do not name it.
        common = [override.input_line or "" for key, override in merged.items() if key not in swept]
        defaults = loader.load_configuration("config", [folder, *common], run_mode=RunMode.MULTIRUN)
        known = {run.folder: _point(run.overrides, merged, defaults) for run in runs}
        grid = {_point(one, merged, master): one for one in _grid(merged.values())}
        new = [one for point, one in grid.items() if point not in known.values()]
        _say_what_is_kept([run for run in runs if known[run.folder] not in grid])
        if not new:
            log.info("the sweep has all %d points of this grid", len(grid))
            return
        numbers = [int(path.name) for path in sweep.iterdir() if path.name.isdecimal()]
        added = compose_batch(loader, master, new, max([len(runs) - 1, *numbers]) + 1)
        _require_same_configs(runs[0], added, swept)
        points = "1 new point" if len(added) == 1 else f"{len(added)} new points"
        log.info("%s beside the %d runs that the sweep has", points, len(runs))
        _plan(sweep, record, runs, added, swept)
        with open_dict(defaults):
            defaults.hydra.overrides = master.hydra.overrides
        write_text(sweep / COMMAND_FILE, OmegaConf.to_yaml(masked_node(defaults)))


def _plan(
    sweep: Path,
    record: SweepRecord,
    runs: Sequence[RunRecord],
    added: Sequence[Combination],
    swept: set[str],
) -> None:
    """Make the new runs' folders, then the sweep's record of them."""
    groups = {group_key(run.config): of.group for run, of in zip(runs, record.runs, strict=True)}
    planned = []
    for one in added:
        config = one.run.config
        one.prepare()
        if not {key.partition(".")[0] for key in swept} & {"prompt", "model", "experiment"}:
            # As it was resolved for the others, with the model's chat template as it was then.
            write_prompt(one.run.path, runs[0].config["prompt"])
            config = {**config, "prompt": runs[0].config["prompt"]}
        group = groups.setdefault(group_key(config), max(groups.values(), default=-1) + 1)
        folder = os.path.relpath(one.run.folder, sweep)
        planned.append(RunRecord(folder=folder, overrides=one.run.overrides, group=group))
    begin(sweep, planned, record.metric.name)


# ---- the overrides, of the command and beside `resume=` ----------------------------------------------------------


def _read_command(sweep: Path) -> DictConfig:
    """What Hydra kept of the sweep's command. Raises ConfigError where there is no grid in it to add to."""
    try:
        command = read_yaml(sweep / COMMAND_FILE)
        sweeper = str(OmegaConf.select(command, "hydra.sweeper._target_"))
    except (OSError, ValueError, OmegaConfBaseException) as error:
        text = f"{sweep / COMMAND_FILE} cannot be read: {one_line(str(error))}"
        raise ConfigError.single("resume", text) from error
    if not isinstance(command, DictConfig) or not sweeper.endswith(".BasicSweeper"):
        text = f"{sweep} is no grid (its sweeper is {shown(sweeper)}), and no points can be added to it"
        raise ConfigError.single("resume", text)
    return command


def _texts(command: DictConfig) -> list[str]:
    """The overrides of the sweep's command, which may come from elsewhere: data, that calls nothing."""
    try:
        found: Any = OmegaConf.to_container(command.hydra.overrides.task, resolve=False)
        texts = [str(text) for text in found]
    except (OmegaConfBaseException, TypeError) as error:
        raise ConfigError.single("resume", f"{COMMAND_FILE} names no overrides") from error
    if wrong := [text for text in texts if "${" in REFERENCE.sub("", text) or MASK in text]:
        raise ConfigError.single(
            "resume", f"{COMMAND_FILE}: {shown(wrong[0])} cannot be typed again from there"
        )
    return texts


def _parsed(texts: Sequence[str]) -> dict[str, Override]:
    try:
        return {one.get_key_element(): one for one in OverridesParser.create().parse_overrides(list(texts))}
    except HydraException as error:
        text = f"{COMMAND_FILE} names an override that cannot be read: {one_line(str(error))}"
        raise ConfigError.single("resume", text) from error


def _given(texts: Sequence[str]) -> tuple[dict[str, Override], set[str]]:
    """Overrides by key, and the keys to leave out of the grid.

    Raises ConfigError for what is no override, and for one of Hydra's own keys.
    """
    found: dict[str, Override] = {}
    left_out: set[str] = set()
    issues = []
    for text in texts:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            issues.append(Issue("resume", f"{text!r} is not an override such as optimizer.lr=1e-4,1e-3"))
            continue
        key = override.get_key_element()
        if key.lstrip("~").startswith("hydra") or key.lstrip("~") == "resume":
            issues.append(Issue("resume", f"goes on in the sweep's own way; leave out {text}"))
        if override.is_delete():
            left_out.add(key.lstrip("~"))
        else:
            found[key] = override
    if issues:
        raise ConfigError(issues)
    return found, left_out


def _is_of_a_trial(key: str) -> bool:
    """Whether each trial has such a key for itself, so that a sweep that has one value of it may get another."""
    group = key.lstrip("+").partition(".")[0]
    return group in OWN_GROUPS and group != "tracking"


def _swept(overrides: Mapping[str, Override]) -> set[str]:
    return {key for key, override in overrides.items() if override.is_sweep_override()}


def _require_same_settings(
    command: DictConfig, before: Mapping[str, Override], given: Mapping[str, Override], swept: set[str]
) -> None:
    """Raises ConfigError that names each setting that is not swept and has another value now."""
    issues = []
    for key, override in given.items():
        if key in swept or override.is_sweep_override():
            continue
        if (now := _text(override.value())) != (was := _value_of(key, before, command)):
            text = f"is {was} for every run of the sweep, and cannot be {now} for new ones alone; "
            issues.append(Issue(key, f"{text}leave it out, sweep over both, or start a sweep of its own"))
    if issues:
        raise ConfigError(issues)


def _require_swept(swept: set[str], left_out: set[str]) -> None:
    """Raises ConfigError for each key to leave out that the sweep does not sweep over."""
    issues = [
        Issue(f"~{key}", f"is not swept; this sweep sweeps over {', '.join(sorted(swept)) or 'nothing'}")
        for key in sorted(left_out - swept)
    ]
    if issues:
        raise ConfigError(issues)


def _require_same_configs(one: RunRecord, added: Sequence[Combination], swept: set[str]) -> None:
    """What conf/ said when the sweep began may have been changed since, which no override tells."""
    groups = {key.lstrip("+").partition(".")[0].partition("/")[0] for key in swept}
    if groups & {"model", "data", "experiment", "prompt"}:
        return  # which say what others are by default
    groups |= {"prompt", "tracking", "resume"}
    issues = []
    was, now = flat(one.config), flat(added[0].run.config)
    for key, value in was.items():
        if key.partition(".")[0] not in groups and key in now and now[key] != value:
            text = f"was {value.text} for the runs of the sweep, and is {now[key].text} by conf/ now"
            issues.append(Issue(key, f"{text}; new points would not be ranked beside them"))
    if issues:
        raise ConfigError(issues)


def _say_what_is_kept(runs: Sequence[RunRecord]) -> None:
    for run in runs:
        log.info("%s is kept, which this grid does not have: %s", run.path.name, " ".join(run.overrides))


# ---- the grid ----------------------------------------------------------------------------------------------------


def _grid(overrides: Sequence[Override] | Any) -> Iterator[list[str]]:
    """Each combination as Hydra's own sweeper makes it."""
    values = []
    for one in overrides:
        key = one.get_key_element()
        texts = one.sweep_string_iterator() if one.is_sweep_override() else [one.get_value_element_as_str()]
        values.append([f"{key}={text}" for text in texts])
    for combination in itertools.product(*values):
        yield list(combination)


def _point(texts: Sequence[str], keys: Mapping[str, Override], master: DictConfig) -> Point:
    """A combination as its values, however they were typed, with the default of a key that it does not name."""
    own = _parsed(texts)
    return tuple(
        sorted((key.lstrip("+"), _value_of(key, own, master)) for key in dict.fromkeys([*keys, *own]))
    )


def _value_of(key: str, overrides: Mapping[str, Override], config: DictConfig) -> str:
    if key in overrides:
        return _text(overrides[key].value())
    key = key.lstrip("+")
    try:
        value = OmegaConf.select(config, f"hydra.runtime.choices.{key}")
        value = OmegaConf.select(config, key) if value is None else value
    except OmegaConfBaseException:
        return ""
    return _text(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)


def _text(value: object) -> str:
    """One text for one value: 1e-3 and 0.001, 3 and 3.0."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    return str(value)


@contextmanager
def _composing(overrides: Sequence[str]) -> Iterator[tuple[ConfigLoader, DictConfig]]:
    """For the block, what composes the runs of a `-m` command with these overrides, and the command's config."""
    before = HydraConfig.instance().cfg
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        try:
            master = loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(diagnose(["-m", *overrides], error, preflight)) from error
        HydraConfig.instance().set_config(master)
        try:
            yield loader, master
        finally:
            HydraConfig.instance().cfg = before
