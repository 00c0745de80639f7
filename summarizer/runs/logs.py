"""The log of runs that train together: on the terminal once, and in the run.log of each run that it concerns."""

from __future__ import annotations

import logging
import logging.config
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from summarizer.config.paths import conf_folder
from summarizer.console.safe_text import say
from summarizer.files import open_own


class OfRun(logging.Filter):
    """Lets through what concerns the run of a folder: lines of `extra={"run": folder}` for it, and all without."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "run", None) in (None, self.folder)


class RunLog(logging.Handler):
    """A run's log file, each line on the disk at once. Where the disk takes no more, the run goes on without it."""

    def __init__(self, filename: str) -> None:
        """Raises OSError where the file is a link, or cannot be written."""
        super().__init__()
        self.path = Path(filename)
        self._handle: int | None = open_own(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def emit(self, record: logging.LogRecord) -> None:
        if self._handle is None:
            return
        try:
            os.write(self._handle, (self.format(record) + "\n").encode("utf-8", "backslashreplace"))
        except OSError as error:
            self.close()
            say(f"{self.path} takes no more lines: {error.strerror}")
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
        self._handle = None
        super().close()


def log_to_terminal() -> None:
    """Log as Hydra does before a sweep's first run, where it is not in charge."""
    config: Any = OmegaConf.to_container(
        OmegaConf.load(conf_folder() / "hydra" / "hydra_logging" / "run.yaml")
    )
    logging.config.dictConfig(config)


@contextmanager
def folder_logs(folders: Sequence[str]) -> Iterator[None]:
    """Log as the project does by itself, where Hydra is not in charge: to the terminal and each run.log."""
    config: Any = OmegaConf.load(conf_folder() / "hydra" / "job_logging" / "run.yaml")
    logging_of: dict[str, Any] = {}
    for folder in folders:
        config.handlers.file.filename = f"{folder}/run.log"
        logging_of[folder] = OmegaConf.to_container(config)
    with logged_together(logging_of, verbose=False):
        yield


@contextmanager
def logged_together(logging_of: Mapping[str, Any], verbose: Any) -> Iterator[None]:
    """For the block, log as several runs' logging configs (by run folder) say, together; then as before.

    verbose: what logs at DEBUG, as `hydra.verbose` says it.
    """
    from hydra.core.utils import configure_log

    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    combined = OmegaConf.create(_together(logging_of))
    assert isinstance(combined, DictConfig)
    configure_log(combined, verbose)
    try:
        yield
    finally:
        for handler in [handler for handler in root.handlers if handler not in before]:
            root.removeHandler(handler)
            handler.close()
        root.handlers[:] = before
        root.setLevel(level)


def _together(logging_of: Mapping[str, Any]) -> dict[str, Any]:
    """One logging config for several runs': a handler that is the same in all of them once, others for each."""
    folders, configs = list(logging_of), list(logging_of.values())
    handlers: dict[str, Any] = {}
    filters: dict[str, Any] = dict(configs[0].get("filters", {}))
    names: dict[str, list[str]] = {}
    for name, handler in configs[0].get("handlers", {}).items():
        if all(config["handlers"].get(name) == handler for config in configs):
            handlers[name], names[name] = handler, [name]
            continue
        names[name] = [f"{name} of {folder}" for folder in folders]
        for folder, own, config in zip(folders, names[name], configs, strict=True):
            filters[own] = {"()": f"{__name__}.{OfRun.__name__}", "folder": folder}
            known = config["handlers"][name]
            handlers[own] = {**known, "filters": [*known.get("filters", []), own]}

    def with_handlers(logger: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        if not logger or "handlers" not in logger:
            return logger
        return {**logger, "handlers": [own for name in logger["handlers"] for own in names[name]]}

    loggers = {name: with_handlers(logger) for name, logger in configs[0].get("loggers", {}).items()}
    return {
        **configs[0],
        "root": with_handlers(configs[0].get("root")),
        "handlers": handlers,
        "filters": filters,
        "loggers": loggers,
    }
