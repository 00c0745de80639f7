"""What is asked of a sweep while it trains, checked before it is written down: every mistake costs a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from summarizer.config.paths import shown
from summarizer.errors import ConfigError, suggestion
from summarizer.runs.folder import LOCKS, holders
from summarizer.runs.preflight import preflight
from summarizer.runs.record import RunRecord, is_finished, read_configured, read_record
from summarizer.runs.requests import ask, changed
from summarizer.sweeps.record import FILE_NAME, read_sweep

KINDS = ("stop", "clone")


def request(sweep: Path, words: Sequence[str]) -> str:
    """Ask `stop RUN` or `clone RUN KEY=VALUE ...` of a sweep; returns what happens now, in a line.

    Raises ConfigError, nothing being written, where it cannot be followed.
    """
    kind, run, overrides = (words[0] if words else ""), (words[1] if len(words) > 1 else ""), words[2:]
    if kind not in KINDS:
        raise ConfigError.single("REQUEST", f"{kind!r} is no request{suggestion(kind, KINDS)}")
    if not run:
        raise ConfigError.single(kind, "names no run; write its number, as `compare SWEEP --watch` shows it")
    if not (sweep / FILE_NAME).is_file():
        no_sweep = f"{shown(sweep)} is no sweep: it has no {FILE_NAME}"
        raise ConfigError.single("SWEEP", no_sweep if sweep.is_dir() else f"no such folder: {shown(sweep)}")
    runs = {one.folder: one for one in read_sweep(sweep).runs}
    if run not in runs:
        raise ConfigError.single(kind, f"{run!r} is no run of {shown(sweep)}{suggestion(run, list(runs))}")
    _require_training(sweep, kind, run, runs)
    if kind == "stop":
        if overrides:
            raise ConfigError.single(kind, f"takes a run and nothing else; leave out {' '.join(overrides)}")
        ask(sweep, "stop", run)
        return f"{run} is stopped at its next step; its best adapter is kept"
    if not overrides:
        raise ConfigError.single(kind, f"names no setting for the clone of {run}, such as optimizer.lr=5e-4")
    source = read_configured(sweep / run, kind)
    preflight(OmegaConf.create(changed(source.config, overrides)))
    asked = ask(sweep, "clone", run, overrides)
    return f"{asked.folder} begins as {run} is at its next step, with {' '.join(overrides)}"


def _require_training(sweep: Path, kind: str, run: str, runs: dict[str, RunRecord]) -> None:
    """Raises where the sweep or the run has ended, or nobody trains it."""
    if all(is_finished(sweep / folder) for folder in runs):
        raise ConfigError.single(kind, f"all runs of {shown(sweep)} have ended")
    if is_finished(sweep / run):
        raise ConfigError.single(kind, f"{run} has ended: {read_record(sweep / run).status}")
    # Claims are seen on the machine that trains; on another nobody can tell.
    if LOCKS.is_file() and not holders([sweep / folder for folder in runs]):
        text = f"no process of this machine trains {shown(sweep)}; resume={shown(sweep)} goes on with it"
        raise ConfigError.single(kind, text)
    if (read_configured(sweep / run, kind).config["trainer"].get("processes") or 1) > 1:
        raise ConfigError.single(
            kind, "runs that train in several processes (trainer.processes) take no requests"
        )
