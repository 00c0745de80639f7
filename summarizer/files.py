"""Files of a folder that may come from elsewhere: opened as what they are, never through a link or a pipe.

A run folder, a sweep folder and a checkpoint are untrusted: `run.log` could be a link to a shell's start file,
`metrics.jsonl` a pipe that never ends or a file of a terabyte. What is read or appended to there is opened by
`open_own` and `read_own`; what is replaced goes through `atomic`, which follows no link by itself.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from summarizer.atomic import held_folder, writing

MOST_BYTES = 16 * 2**20
"""Of a file that is read whole, unless its reader says otherwise: some thousand times what such files have."""

KINDS = ((stat.S_ISLNK, "a link"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
LINKING = "wandb"
"""wandb links inside this folder: `latest-run`, `debug.log`. Such a link is let be while it stays inside."""
LOG_OF_WANDB = ("logs", "debug-core.log")
"""And this one of a run's folder leads to the log in its cache: a killed run leaves it. Nobody opens it."""
EXPORTS = "export"
"""What lies in its folders is written once and never opened again: a person may link a base model there."""


def open_own(path: Path, flags: int, *, links: bool = False) -> int:
    """A descriptor of a regular file, which is not reached through a link itself; the folders above it may be.

    flags: as of `os.open`.  links: let it be a link, as in the hub's cache and where a person named the file.
    Raises OSError that says what it is otherwise.
    """
    try:
        more = os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
        handle = os.open(path, flags | more, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link", str(path)) from error
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "it is a pipe", str(path)) from error
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"it is {_kind(mode)}", str(path))
    return handle


def read_own(path: Path, most_bytes: int = MOST_BYTES, *, links: bool = False) -> bytes:
    """What a regular file holds. Raises OSError as `open_own` does, and for one of more than `most_bytes`."""
    with open(open_own(path, os.O_RDONLY, links=links), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise OSError(errno.EFBIG, f"it is larger than {most_bytes / 2**20:g} MB", str(path))
        return file.read(size)


def append_line(path: Path, line: str, *, new: bool = False) -> None:
    """Append a line (UTF-8) to a file, which has it when this returns, whatever becomes of the process.

    new: make the file where there is none.
    Raises WriteError with the file as it was before, such as on a full disk.
    """
    data = line.encode() + b"\n"
    flags = os.O_WRONLY | os.O_APPEND | (os.O_CREAT if new else 0)
    with writing(path), open(open_own(path, flags), "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            written = file.write(data)
            if written != len(data):
                reason = f"only {written} of {len(data)} bytes fit on the disk"
                raise OSError(errno.ENOSPC, reason, str(path))
        except OSError:
            file.truncate(end)  # half a line would corrupt the one after it
            raise


@contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """For the block, a path to write and delete by inside a folder, made now in one that is there if it is not.

    It stays with the folder, as `atomic.held_folder` has it: nobody leads it elsewhere by a link in its place.
    Raises WriteError where the folder is a link or a file, or cannot be made.
    """
    with ExitStack() as stack:
        with writing(folder):
            try:
                folder.mkdir(exist_ok=True)
                inside = stack.enter_context(held_folder(folder))
            except OSError as error:
                if not folder.is_symlink() and not folder.is_file():
                    raise
                what = "it is a link" if folder.is_symlink() else "it is a file"
                raise OSError(error.errno, what, str(folder)) from error
        yield inside


def strangers(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each thing below a folder that is neither a file nor a folder, and what it is; no link is followed.

    Raises OSError where a folder cannot be read.
    """
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    if path.parent.name != EXPORTS:
                        pending.append(path)
                elif not entry.is_file(follow_symlinks=False) and not _of_wandb(path, folder):
                    yield path, _kind(entry.stat(follow_symlinks=False).st_mode)


def _of_wandb(path: Path, folder: Path) -> bool:
    """Whether it is a link that wandb makes, inside a folder of wandb below `folder`."""
    below = list(path.parents)[: list(path.parents).index(folder)] if path.is_symlink() else []
    return any(
        parent.name == LINKING
        and (
            Path(os.path.realpath(path)).is_relative_to(os.path.realpath(parent))
            or path.relative_to(parent).parts[1:] == LOG_OF_WANDB
        )
        for parent in below
    )


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return next((name for is_kind, name in KINDS if is_kind(mode)), "a device")
