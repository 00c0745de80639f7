"""One run, one folder, one process: no other writes over what it wrote, and nothing outside is touched."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from summarizer.atomic import write_text
from summarizer.config.overrides import hidden, unquoted
from summarizer.config.paths import shown
from summarizer.console.safe_text import file_name
from summarizer.console.secrets import masked
from summarizer.errors import ConfigError, Issue
from summarizer.files import open_own, strangers
from summarizer.tracking.metrics import METRICS

LOCK = ".lock"
LOCKS = Path("/proc/locks")
HYDRAS = (".hydra", "run.log")
DATE = re.compile(r"\d{4}-\d\d-\d\d")
"""What is written into a folder before a run begins."""
FOLDERS = (
    *(".hydra", "adapter", "checkpoints", "predictions", "faithfulness", "evaluations", "wandb"),
    "tensorboard",
)
FILES = (LOCK, "run.log", METRICS, "summary.json")
"""What a run writes into its folder, and what of it is a folder and what a file."""
MOST_NAMED = 3
"""How many of the things that have no place in a run folder a message names."""


def require_own(folder: Path, key: str, *, resumed: bool = False) -> None:
    """Refuse the folder of a run, or of a sweep with its runs, that holds more than files and folders of its own.

    It may come from elsewhere: a link in it would lead what is read, written and deleted there to other places.
    key: what a message names as the source of the folder. One that is not there passes: its reader says so.
    resumed: whether the run is written to again. Then its files have no second names (hard links) either, under
    which they would be changed too.
    Raises ConfigError that names what is in the way.
    """
    if not folder.is_dir():
        return
    try:
        found = list(islice(_not_own(folder, resumed), MOST_NAMED))
    except OSError as error:
        raise ConfigError.single(key, f"{_shown(folder)} cannot be read: {error.strerror}") from error
    if found:
        text = f"{_shown(folder)} is not opened, since not all in it is its own: {', '.join(found)}; "
        raise ConfigError.single(
            key, text + "delete that, or put a file or folder of the run's own in its place"
        )


def _not_own(folder: Path, resumed: bool) -> Iterator[str]:
    """What is in the way of opening a folder, as words for each."""
    for path, what in strangers(folder):
        yield f"{file_name(path.relative_to(folder))} is {what}"
    for name in FOLDERS:
        if (folder / name).is_file():
            yield f"{name} is a file, where a run has a folder"
    for name in FILES:
        if (folder / name).is_dir():
            yield f"{name} is a folder, where a run has a file"
        elif resumed and (folder / name).is_file() and (folder / name).stat().st_nlink > 1:
            yield f"{name} has a second name (a hard link)"


def write_configs(run: Path, config: Any, hydra: DictConfig, *, read_back: bool = False) -> None:
    """Write what a run is configured by into its `.hydra`, file by file what Hydra would write there.

    What looks secret is ***, and a value that the run needs is to be given again before it can be resumed:
    `read_configured` says so.
    config: without the node `hydra`, which alone is in `hydra`.
    read_back: whether another process, started from here, perhaps more than once, is to have the secrets: they then
    are in variables that it inherits, whose names are written.
    Raises WriteError.
    """
    (run / ".hydra").mkdir(parents=True, exist_ok=True)
    for name, node in {"config": config, "hydra": hydra, "overrides": hydra.hydra.overrides.task}.items():
        safe = _hidden_node(node) if read_back else masked_node(node)
        write_text(run / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(safe))


def _hidden_node(node: Any) -> Any:
    return OmegaConf.create(hidden("", OmegaConf.to_container(node, resolve=False)))  # type: ignore[call-overload]


def mask_written(folder: Path) -> None:
    """Write *** in place of what looks secret in the config files of the folder of a run, or of a sweep.

    What looked so on the command line is no more than the name of a variable there (`without_secrets`).
    """
    files = (".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "multirun.yaml")
    for file in (folder / name for name in files):
        if not file.is_file():
            continue
        node = OmegaConf.load(file)
        if (safe := masked_node(node)) is not node:
            write_text(file, OmegaConf.to_yaml(safe))


def masked_node(node: Any) -> Any:
    """A config, with *** in place of what looks secret; the node itself where nothing does."""
    plain: Any = OmegaConf.to_container(node, resolve=False)
    safe = masked({"": plain})[""]
    return node if safe == plain else OmegaConf.create(safe)


def write_prompt(run: Path, prompt: Mapping[str, Any]) -> None:
    """Put a prompt that has been resolved into the config that Hydra wrote into a run folder, if it wrote one."""
    file = run / ".hydra" / "config.yaml"
    if not file.is_file():
        return
    written: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    written["prompt"] = masked({"": prompt})[""]
    write_text(file, OmegaConf.to_yaml(OmegaConf.create(written)))


def write_limits(run: Path, limits: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Put other limits of training into what Hydra wrote into a run folder.

    limits: values of keys below `trainer`.  overrides: all of the run's, as its record has them.
    """
    file = run / ".hydra" / "config.yaml"
    written = OmegaConf.load(file)
    for key, value in limits.items():
        OmegaConf.update(written, f"trainer.{key}", value)
    write_text(run / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(list(overrides))))
    write_text(file, OmegaConf.to_yaml(written))


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes for the block. A killed process lets go by itself.

    Raises ConfigError where another process holds it, or where it takes no lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        handle = open_own(folder / LOCK, os.O_WRONLY | os.O_CREAT)
    except OSError as error:
        raise ConfigError.single("", f"{folder / LOCK} cannot be opened: {error.strerror}") from error
    with open(handle, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError.single("", f"{folder}: another process is running in this folder") from error
        yield


def holders(folders: Sequence[Path]) -> set[Path]:
    """Those of the folders that a process of this machine has claimed, seen without touching a lock.

    Empty where the system does not tell. Source: proc_locks(5); a lock's last column but two ends in the inode.
    """
    try:
        held = {int(line.split()[5].rpartition(":")[2]) for line in LOCKS.read_text().splitlines()}
    except (OSError, ValueError, IndexError):
        return set()
    locks = {folder: folder / LOCK for folder in folders}
    return {folder for folder, lock in locks.items() if lock.is_file() and lock.stat().st_ino in held}


def check_unused(arguments: Sequence[str]) -> None:
    """Refuse a hydra.run.dir or hydra.sweep.dir that holds runs, before Hydra writes its own files there.

    Raises ConfigError that says how to resume such a run instead.
    """
    issues = []
    for argument in arguments:
        key, _, value = argument.lstrip("+").partition("=")
        if key not in ("hydra.run.dir", "hydra.sweep.dir") or "${" in value:
            continue
        value = unquoted(value)
        folder = Path(value)
        pattern = METRICS if key == "hydra.run.dir" else f"*/{METRICS}"
        if reason := _unusable(folder):
            issues.append(Issue(key, f"{value} cannot be used: {reason}"))
        elif links := [name for name in (*FOLDERS, *FILES) if (folder / name).is_symlink()]:
            issues.append(Issue(key, f"{value} cannot be used: {', '.join(links)} in it is a link"))
        elif found := next(folder.glob(pattern), None):
            whole = folder if (folder / "sweep.json").is_file() else found.parent
            text = f"{value} holds a run already; give another folder, or resume={whole} if it was cut off"
            issues.append(Issue(key, text))
    if issues:
        raise ConfigError(issues)


def _shown(folder: Path) -> str:
    return file_name(Path(shown(folder)))


def take_back(folder: Path) -> None:
    """Remove the folder of a run that was refused, if there is no more in it than was written before it began."""
    if not {path.name for path in folder.iterdir()} <= {*HYDRAS, LOCK}:
        return
    with suppress(ConfigError), claimed(folder):  # it is another process's
        shutil.rmtree(folder)
    remove_empty_date(folder.parent)


def remove_empty_date(folder: Path) -> None:
    """Remove the folder of a day that Hydra made for a run or a sweep that nothing became of."""
    if DATE.fullmatch(folder.name):
        with suppress(OSError):  # it holds others
            folder.rmdir()


def _unusable(folder: Path) -> str | None:
    """Why no run can be written to a folder, or None where one can. It is not made: that is up to the run."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        return error.strerror
    if not there.is_dir():
        return f"{there} is a file"
    return None if os.access(there, os.W_OK) else f"{there} is read-only"
