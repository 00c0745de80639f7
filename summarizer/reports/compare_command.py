"""What `python -m summarizer.compare` does once its arguments are read."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from summarizer.atomic import write_text
from summarizer.config.paths import shown
from summarizer.console import progress
from summarizer.console.progress import SafeConsole
from summarizer.errors import ConfigError, Issue, RunsFailed
from summarizer.json_files import parse_json
from summarizer.reports.compared import Comparison, as_json
from summarizer.reports.comparison import LOSS, compare_runs
from summarizer.reports.comparison_tables import print_comparison
from summarizer.runs.find_runs import Found, find
from summarizer.runs.logs import log_to_terminal
from summarizer.runs.mistakes import FAILURE, ended_by_sigterm
from summarizer.runs.read_runs import NeverBeganError, RunFiles, read_run_files, reason

NOTHING = Issue("PATH", "there is no run to compare")
MOST_NAMED = 3
"""How many folders in which no run began are named; of more, only their number is said."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What a person asks `compare` for."""

    paths: tuple[Path, ...]
    by: str = LOSS
    html: Path | None = None
    json: Path | None = None
    watch: bool = False
    """Look again until all runs have ended."""
    mistakes: tuple[Issue, ...] = ()
    """What is wrong with single flags, to be said with what is wrong with the files that they name."""


def compare(request: Request) -> None:
    """Read the runs, write what was asked for, and print them beside each other.

    Raises ConfigError where no run can be read, or for a mistaken flag before any is; RunsFailed at the end where
    some of it could not be read; OSError where a file cannot be written.
    """
    log_to_terminal()
    logging.getLogger("absl").setLevel(logging.WARNING)  # rouge-score tells of its tokenizer
    _check(request)
    with ended_by_sigterm():
        if request.watch:
            _watch(request)
        comparison = _compared(request)
        # The files first: who reads the table through `head` closes it before its end.
        if request.json is not None:
            write_text(request.json, as_json(comparison) + "\n")
            log.info("saved: %s", shown(request.json))
        if request.html is not None:
            from summarizer.reports.html_page import page

            write_text(request.html, page(comparison))
            log.info("saved: %s", shown(request.html))
        print_comparison(comparison, SafeConsole(sys.stdout))
    if comparison.problems:
        count = len(comparison.problems)
        what = "1 thing" if count == 1 else f"{count} things"
        raise RunsFailed(f"{what} could not be read, as said above; the rest was compared.", FAILURE)


def _compared(request: Request) -> Comparison:
    found = find(request.paths)
    runs, problems = _read(found)
    return compare_runs(
        runs,
        by=request.by,
        with_articles=request.html is not None or request.json is not None,
        problems=problems,
        notes=found.notes,
    )


def _watch(request: Request) -> None:
    """Show the runs while they train. However that ends, the page does not reload itself any more."""
    from summarizer.reports.html_page import page
    from summarizer.reports.watching import EVERY_S, watch

    newest: list[Comparison] = []

    def draw() -> Path | None:
        if request.html is not None:
            try:
                newest[:] = [_compared(request)]
            except ConfigError:
                return None  # none has begun to train
            write_text(request.html, page(newest[0], reload_s=EVERY_S))
        return request.html

    try:
        watch(request.paths, draw)
    finally:
        if request.html is not None and newest:
            write_text(request.html, page(newest[0]))


def _check(request: Request) -> None:
    """Raises ConfigError for what is wrong with the flags, before any run is read."""
    issues = list(request.mistakes)
    for flag, path in (("--html", request.html), ("--json", request.json)):
        if path is not None and (refusal := _refusal(flag, path)):
            issues.append(Issue(flag, refusal))
    if issues:
        raise ConfigError(issues)


def _refusal(flag: str, path: Path) -> str | None:
    """Why a file is not written: nothing that is no earlier comparison is replaced."""
    if path.is_dir():
        return f"{path} is a folder; name a file, such as {path / f'comparison.{flag[2:]}'}"
    if not path.parent.is_dir():
        return (
            f"{path.parent} is a file, not a folder" if path.parent.exists() else f"no folder {path.parent}"
        )
    if not path.exists():
        return None
    if flag == "--html" and path.suffix.lower() not in (".html", ".htm"):
        return f"{path} is there already and does not end in .html; give another name"
    if flag == "--json" and not _is_comparison(path):
        return f"{path} is there already and is no comparison; give another name"
    return None


def _is_comparison(path: Path) -> bool:
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"ranked_by", "row_sets"} <= found.keys()


def _read(found: Found) -> tuple[list[RunFiles], dict[str, str]]:
    """Every run that can be read, and what cannot. Raises ConfigError where that is all."""
    runs: list[RunFiles] = []
    problems = dict(found.problems)
    unbegun: dict[str, str] = {}
    with progress.bar("reading", len(found.folders)) as bar:
        for folder in found.folders:
            try:
                run = read_run_files(folder)
            except ConfigError as error:
                of_kind = unbegun if isinstance(error, NeverBeganError) else problems
                of_kind[shown(folder)] = reason(error, str(folder))
            except OSError as error:
                problems[shown(folder)] = f"{error.filename or 'a file'} cannot be read: {error.strerror}"
            else:
                runs.append(run)
                problems |= run.problems
            bar.advance()
    left_out = "1 folder" if len(unbegun) == 1 else f"{len(unbegun):,} folders"
    if not runs:
        issues = [Issue(path, problem) for path, problem in problems.items()]
        if len(unbegun) > MOST_NAMED:
            issues.append(Issue("PATH", f"there is no run to compare: in {left_out} none began to train"))
        else:
            issues += [Issue(path, problem) for path, problem in unbegun.items()]
        raise ConfigError(issues or [NOTHING])
    if unbegun:
        found.notes.append(
            f"{left_out} in which no run began {'was' if len(unbegun) == 1 else 'were'} left out."
        )
    return runs, problems
