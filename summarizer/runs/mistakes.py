"""How a command ends: a user's mistake is one message and exit code 2, a failure is exit code 1."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from summarizer.errors import ConfigError, Issue, NonFiniteLossError, RunsFailed, StopRequested, disk_refusal

log = logging.getLogger(__name__)

FAILURE, MISTAKE = 1, 2
SIGNALLED = 128
"""Added to a signal's number. Source: the convention of POSIX shells."""


def report_mistakes(run: Callable[[], object], arguments: Sequence[str]) -> int:
    """Run a command's body, say what went wrong if anything did, and return the exit code."""
    # Hydra would print and exit by itself, always with 1; this makes it raise.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        run()
    except SystemExit:
        raise  # --help has been answered; below, Hydra would be imported to ask whether it is one of its errors
    except ConfigError as error:
        say(mistake_text(error.issues))
        return MISTAKE
    except RunsFailed as error:
        say(str(error))
        return error.exit_code
    except StopRequested as error:
        return SIGNALLED + error.signal_number
    except KeyboardInterrupt:
        return SIGNALLED + 2
    except (ValueError, *_composing_errors()) as error:  # type: ignore[misc]
        if not isinstance(error, _composing_errors()) and not _raised_by_hydra(error):
            raise
        from summarizer.config.diagnose import diagnose
        from summarizer.runs.preflight import preflight

        say(mistake_text(diagnose(arguments, error, preflight)))
        return MISTAKE
    except NonFiniteLossError as error:
        say(f"Training stopped: {error}.")
        return FAILURE
    except BrokenPipeError:
        # As of `--help | head`. What is still in the buffer would raise once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        say("Stopped: nobody reads the output any more.")
        return FAILURE
    except OSError as error:
        if (refused := disk_refusal(error)) is None:
            raise
        say(f"{refused} Nothing that was saved is lost.")
        return FAILURE
    return 0


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
    module = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
    return module.startswith("hydra.")


def mistake_text(issues: Sequence[Issue]) -> str:
    """Every issue on a line of its own, under a line that counts them."""
    count = "1 mistake" if len(issues) == 1 else f"{len(issues)} mistakes"
    return "\n".join([f"{count}:", *(f"  {issue}" for issue in issues)])


def say(message: str) -> None:
    print(message, file=sys.stderr)
