"""How a command ends: a user's mistake is one message and exit code 2, a failure is exit code 1."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from summarizer.config.paths import shown
from summarizer.console.safe_text import escaped, said, say
from summarizer.errors import (
    ConfigError,
    Issue,
    NonFiniteLossError,
    ProcessLostError,
    RunsFailed,
    StopRequested,
    disk_refusal,
)

log = logging.getLogger(__name__)

FAILURE, MISTAKE = 1, 2
SIGNALLED = 128
"""Added to a signal's number. Source: the convention of POSIX shells."""


class ExitCode:
    """The exit code of a command whose body is the block: what goes wrong there is said, and ends the block.

    A context rather than a function that calls the body, so that a traceback and a profile show the body alone.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        """arguments: those that a config was composed of, to explain what Hydra says of them."""
        self.value = 0
        self._arguments = arguments

    def __enter__(self) -> ExitCode:
        # Hydra would print and exit by itself, always with 1; this makes it raise.
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        code = 0 if error is None else _said(error, self._arguments)
        self.value = code or 0
        return code is not None


def report_mistakes(run: Callable[[], object], arguments: Sequence[str]) -> int:
    """Run a command's body, say what went wrong if anything did, and return the exit code."""
    with ExitCode(arguments) as code:
        run()
    return code.value


def _said(error: BaseException, arguments: Sequence[str]) -> int | None:
    """Say what ended a command, and return its exit code; None for what nobody expected, which is raised."""
    if isinstance(error, ConfigError):
        say(mistake_text(error.issues))
        return MISTAKE
    if isinstance(error, RunsFailed):
        say(str(error))
        return error.exit_code
    if isinstance(error, StopRequested):
        return SIGNALLED + error.signal_number
    if isinstance(error, KeyboardInterrupt):
        return SIGNALLED + signal.SIGINT
    if isinstance(error, NonFiniteLossError):
        say(f"Training stopped: {error}.")
        return FAILURE
    if isinstance(error, ProcessLostError):
        say(f"{error}. The run goes on from its last checkpoint by resume=ITS FOLDER.")
        return FAILURE
    if isinstance(error, BrokenPipeError):
        # As of `--help | head`. What is still in the buffer would raise once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        say("Stopped: nobody reads the output any more.")
        return FAILURE
    if isinstance(error, OSError) and (refused := disk_refusal(error)) is not None:
        say(refused)
        return FAILURE
    if isinstance(error, Exception) and (_raised_by_hydra(error) or isinstance(error, _composing_errors())):
        from summarizer.config.diagnose import diagnose
        from summarizer.runs.preflight import preflight

        say(mistake_text(diagnose(arguments, error, preflight)))
        return MISTAKE
    text = "".join(traceback.format_exception(error)).rstrip()
    if isinstance(error, Exception) and said(text) != text:
        # Python would print it as it is, with what a file that it quotes holds.
        say(text)
        return FAILURE
    return None


def say_kept(held: int, wanted: int, where: str) -> None:
    """Tell whoever stopped a command that writes summaries how many of them are kept, and how to resume."""
    say(f"Stopped: {held} of {wanted} summaries are in {where}; the same command resumes from there.")


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """For the block, SIGTERM ends the command as Ctrl-C does: what is done is kept, the terminal is put right."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise StopRequested(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _composing_errors() -> tuple[type[Exception], ...]:
    """What composing a config raises; asked for when something was raised, since Hydra takes its time to import."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    return HydraException, OmegaConfBaseException


def _raised_by_hydra(error: Exception) -> bool:
    """Whether it stems from Hydra itself, which says in a bare ValueError that `model=null` is no option."""
    if not isinstance(error, ValueError):
        return False
    module = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
    return module.startswith("hydra.")


def mistake_text(issues: Sequence[Issue]) -> str:
    """Every issue on a line of its own, under a line that counts them."""
    count = "1 mistake" if len(issues) == 1 else f"{len(issues)} mistakes"
    return "\n".join([f"{count}:", *(f"  {escaped(str(issue))}" for issue in issues)])


EXPECTED = (ConfigError, NonFiniteLossError, ProcessLostError, RunsFailed)
"""Failures whose message says all; others are logged with where they happened."""


def say_failed(error: Exception, folders: Sequence[str]) -> None:
    """Log why runs failed, in the log of one alone where it is one."""
    refused = disk_refusal(error)
    unexpected = None if refused or isinstance(error, EXPECTED) else error
    one = {"run": folders[0]} if len(folders) == 1 else {}
    names = ", ".join(shown(Path(folder)) for folder in folders)
    text = "%s %s failed: %s"
    log.error(text, "run" if one else "runs", names, refused or error, exc_info=unexpected, extra=one)
