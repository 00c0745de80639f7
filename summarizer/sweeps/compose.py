"""The runs of a batch: each composed as Hydra composes a job, all checked before one begins, sorted into groups."""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from summarizer.config.diagnose import diagnose
from summarizer.config.paths import shown
from summarizer.console.progress import bar
from summarizer.errors import ConfigError, Issue
from summarizer.runs.folder import write_configs
from summarizer.runs.logs import logged_together
from summarizer.runs.preflight import preflight
from summarizer.runs.record import RunRecord, composed_run
from summarizer.tracking.metrics import METRICS

NAMED = 3
"""Combinations that a message names one by one, at most."""
SUBDIR = "hydra.sweep.subdir"
OWN_GROUPS = ("adapter", "optimizer", "seed", "tracking")
"""Keys that each trial of a group has for itself."""
OWN_OF_TRAINER = ("schedule", "max_grad_norm", "epochs", "max_steps", "early_stopping")
WORTH_A_BAR = 20
"""Combinations; each takes about a tenth of a second to compose and check."""


@dataclass(frozen=True)
class Combination:
    """One combination of a sweep, as Hydra's `run_job` would run it."""

    config: DictConfig
    """All of it, the node `hydra` with the output folder included."""
    task: DictConfig
    """The same without `hydra`."""
    run: RunRecord

    def prepare(self, *, read_back: bool = False) -> None:
        """Make the run folder with its `.hydra/`, secrets masked.

        read_back: whether `read_combination` is to have them.
        """
        with composed_for(self.config):
            write_configs(
                self.run.path, self.task, OmegaConf.masked_copy(self.config, "hydra"), read_back=read_back
            )


@contextmanager
def composed_for(config: DictConfig) -> Iterator[None]:
    """For the block, `HydraConfig` and the resolver `hydra:` speak of this job."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


@contextmanager
def group_logs(combinations: Sequence[Combination]) -> Iterator[None]:
    """Log as each combination's `hydra.job_logging` says, together."""
    logging_of: dict[str, Any] = {}
    for one in combinations:
        with composed_for(one.config):
            logging_of[one.run.folder] = OmegaConf.to_container(one.config.hydra.job_logging, resolve=True)
    with logged_together(logging_of, combinations[0].config.hydra.verbose):
        yield


@contextmanager
def _no_hydra() -> Iterator[None]:
    """For the block, as if Hydra were not at work: it composes for one command at a time."""
    working = GlobalHydra.instance()
    before = working.hydra
    working.clear()
    try:
        yield
    finally:
        working.clear()
        if before is not None:
            working.initialize(before)


def compose_batch(
    loader: ConfigLoader, master: DictConfig, batch: Sequence[Sequence[str]], first_number: int
) -> list[Combination]:
    """Compose and check every combination; writes nothing.

    master: the config of the `-m` command.  batch: each combination's overrides, as the sweeper made them.
    Raises ConfigError with each mistake of the batch once, and the combinations that it occurs in.
    """
    combinations: list[Combination | None] = []
    found: list[list[Issue]] = []
    with bar("checking combinations", len(batch), show=len(batch) >= WORTH_A_BAR) as checked:
        for place, overrides in enumerate(batch):
            combinations.append(None)
            try:
                combinations[place] = combination = _composed(loader, master, overrides, first_number + place)
            except (HydraException, OmegaConfBaseException) as error:
                with _no_hydra():
                    found.append(diagnose([*master.hydra.overrides.hydra, *overrides], error, preflight))
            else:
                found.append(list(_mistakes(combination, os.path.abspath(master.hydra.sweep.dir))))
            checked.advance()
    composed = [one for one in combinations if one is not None]
    uses = Counter(one.run.folder for one in composed)
    for one, issues in zip(combinations, found, strict=True):
        if one is not None and uses[one.run.folder] > 1:
            text = "is the folder of more than one run; name what differs in it, such as ${hydra.job.num}"
            issues.append(Issue(SUBDIR, f"{shown(one.run.path)} {text}"))
    if issues := merged(found, batch):
        raise ConfigError(issues)
    return composed


def read_combination(folder: Path, sweep: str) -> Combination:
    """What `prepare` left in a run folder, in another process. Nothing of it is checked."""
    hydra = OmegaConf.load(folder / ".hydra" / "hydra.yaml")
    task: Any = OmegaConf.load(folder / ".hydra" / "config.yaml")
    typed = OmegaConf.create({"hydra": OmegaConf.structured(HydraConf)})
    OmegaConf.set_struct(typed.hydra, False)  # some of Hydra's groups are not in its class
    config = OmegaConf.merge(typed, hydra, task)
    assert isinstance(config, DictConfig)
    return _combination(config, task, sweep)


def _composed(loader: ConfigLoader, master: DictConfig, overrides: Sequence[str], number: int) -> Combination:
    # Step by step what BasicLauncher and run_job do.
    config = loader.load_sweep_config(master, list(overrides))
    with open_dict(config):
        config.hydra.job.id = number
        config.hydra.job.num = number
    with composed_for(config):
        sweep = str(config.hydra.sweep.dir)
        folder = os.path.abspath(os.path.join(sweep, str(config.hydra.sweep.subdir)))
        with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
            config.hydra.runtime.output_dir = folder
    task = copy.deepcopy(config)
    with read_write(task), open_dict(task):
        del task["hydra"]
    return _combination(config, task, Path(sweep).name)


def _combination(config: DictConfig, task: DictConfig, sweep: str) -> Combination:
    with composed_for(config):
        return Combination(config, task, composed_run(task, config.hydra, sweep))


def _mistakes(combination: Combination, sweep: str) -> Iterator[Issue]:
    with composed_for(combination.config):
        try:
            preflight(combination.task)
        except ConfigError as error:
            yield from error.issues
    folder = combination.run.path
    if not combination.run.folder.startswith(os.path.join(sweep, "")):
        yield Issue(SUBDIR, f"{shown(folder)} is no folder below the sweep's, {shown(Path(sweep))}")
    elif (folder / METRICS).exists():
        yield Issue(SUBDIR, f"{shown(folder)} holds a run already; give another hydra.sweep.dir")
    if combination.config.hydra.job.chdir:
        yield Issue(
            "hydra.job.chdir", "true: runs that train together have one folder to be in; leave it out"
        )


# ---- which runs train together -----------------------------------------------------------------------------------


def group_key(config: Mapping[str, Any]) -> str:
    """What the runs of a group have in common, of a plain composed config."""
    shared = {name: value for name, value in config.items() if name not in OWN_GROUPS}
    shared["trainer"] = {
        name: value for name, value in config["trainer"].items() if name not in OWN_OF_TRAINER
    }
    return json.dumps(shared, sort_keys=True)


def grouped(keys: Sequence[Hashable]) -> list[list[int]]:
    """The indices of equal keys, in the order of each key's first index."""
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())


# ---- the mistakes of a whole batch -------------------------------------------------------------------------------


def merged(found: Sequence[Iterable[Issue]], batch: Sequence[Sequence[str]]) -> list[Issue]:
    """Every issue of every combination once, with its combinations where it is not in all of them.

    found: for each combination of `batch` (its overrides), what is wrong with it.
    """
    where: dict[Issue, list[int]] = {}
    for place, issues in enumerate(found):
        for issue in dict.fromkeys(issues):
            where.setdefault(issue, []).append(place)
    return [
        issue
        if len(places) == len(batch)
        else Issue(
            issue.key,
            f"{issue.message} (in {len(places)} of {len(batch)} combinations: {_named(places, batch)})",
        )
        for issue, places in where.items()
    ]


def _named(places: Sequence[int], batch: Sequence[Sequence[str]]) -> str:
    """Overrides that say which combinations these are: as one sweep if they are one, or else one by one."""
    everywhere = set(batch[0]).intersection(*batch)
    swept = [{_key(text): text for text in overrides if text not in everywhere} for overrides in batch]
    values = {key: {one.get(key) for one in swept} for one in swept for key in one}
    here = {key: {swept[place].get(key) for place in places} for key in values}
    inside = [place for place, one in enumerate(swept) if all(one.get(key) in here[key] for key in values)]
    if inside == list(places):
        return " ".join(_sweep(key, swept, here[key]) for key in values if here[key] != values[key])
    named = [" ".join(swept[place].values()) for place in places[:NAMED]]
    return "; ".join(named) + (f"; and {len(places) - NAMED} more" if len(places) > NAMED else "")


def _sweep(key: str, swept: Sequence[dict[str, str]], chosen: set[str | None]) -> str:
    """As `adapter.dim=2,4`: the values of a key in the order in which the sweep has them."""
    texts = dict.fromkeys(text for one in swept if (text := one.get(key)) is not None and text in chosen)
    first, *others = [text.partition("=")[2] for text in texts] or ["(not given)"]
    return f"{key}={','.join([first, *others])}"


def _key(override: str) -> str:
    return override.partition("=")[0]
