"""The errors that people see: what was wrong, where, and how to mend it."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Issue:
    """One mistake in a config or its input, as one line for a person."""

    key: str
    """The config key, or the flag, that a person changes to mend it."""
    fact: str
    """What is wrong."""
    advice: str = ""
    """How to mend it in a config. A command without a config leaves it out and says its own."""

    @property
    def message(self) -> str:
        """What is wrong and how to mend it."""
        return f"{self.fact}; {self.advice}" if self.advice else self.fact

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


class ConfigError(Exception):
    """A user's mistake: every issue found, in one message. Ends a command with exit code 2."""

    def __init__(self, issues: Iterable[Issue]) -> None:
        self.issues = tuple(issues)
        super().__init__("\n".join(str(issue) for issue in self.issues))

    @classmethod
    def single(cls, key: str, fact: str, advice: str = "") -> ConfigError:
        return cls([Issue(key, fact, advice)])

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Issue, ...]]]:
        return (type(self), (self.issues,))  # it crosses process borders in multi-process runs


def sound(value: Callable[[], T], issues: list[Issue]) -> T | None:
    """What `value` gives; None where it raises a ConfigError, whose issues join those found so far."""
    try:
        return value()
    except ConfigError as error:
        issues += error.issues
        return None


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that a person probably meant (Ratcliff-Obershelp, difflib), or None where none is near."""
    found = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return found[0] if found else None


def suggestion(name: str, valid: Iterable[str]) -> str:
    """How a message goes on after an unknown name: the nearest valid one, or all of them."""
    names = sorted(valid)
    if near := nearest(name, names):
        return f"; did you mean {near!r}?"
    return f"; valid names: {', '.join(names)}"


class CannotPlan(Exception):  # noqa: N818 - what cannot be done, and nobody's error
    """A step of a model of transformers cannot be planned: it asks its own numbers, or operators without a plan."""


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; nothing is saved over the last good checkpoint."""


class StopRequested(KeyboardInterrupt):
    """SIGINT or SIGTERM: the run was saved and stopped. Ends a sweep too, which an Exception would not."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(f"stopped by signal {signal_number}")


class RunsFailed(Exception):  # noqa: N818 - what happened, as StopRequested is; they said why themselves
    """Runs of a sweep, or processes of a run, failed and said why themselves."""

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class ProcessLostError(RuntimeError):
    """Of the processes that share a run, some are gone; the message names them."""


FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No room on the disk, in a user's share of it, or by a limit on a file's size (`ulimit -f`)."""
REFUSING_DISK = (*FULL_DISK, errno.EROFS, errno.EACCES)


class WriteError(OSError):
    """A file or folder could not be written, whatever the reason; nothing of it is half done."""


def is_full_disk(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in FULL_DISK


def disk_refusal(error: BaseException | None) -> str | None:
    """What to say of a disk that takes no more, or a file that could not be written; None for any other error."""
    if not isinstance(error, OSError) or not (isinstance(error, WriteError) or error.errno in REFUSING_DISK):
        return None
    kept = " Nothing that was saved is lost." if error.errno in REFUSING_DISK else ""
    return f"Cannot write {error.filename or 'to the disk'}: {error.strerror}.{kept}"
