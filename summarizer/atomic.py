"""Writes that a kill, a full disk or a second process cannot leave half done.

The folder to write in must be there: one that was deleted in the middle of a run is not made anew, half full.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from summarizer.errors import WriteError, is_full_disk

if TYPE_CHECKING:
    from torch import Tensor

SCRATCH_PREFIX = ".writing-"
"""How an unfinished file or folder is named, so that whoever finds one knows that it can be deleted."""


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8) in one step. Raises WriteError, leaving the old file as it was."""
    with writing(path):
        handle, scratch = tempfile.mkstemp(prefix=SCRATCH_PREFIX, dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(scratch, 0o666 & ~_umask())
            os.replace(scratch, path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """For the block, a disk that refuses is a WriteError that names `path`, whatever file was being written.

    Libraries in Rust (safetensors, tokenizers) have errors of their own for that, which name the system's number.
    """
    try:
        yield
    except OSError as error:
        if error.filename and not Path(os.fsdecode(error.filename)).is_relative_to(path.parent):
            raise  # it was not this that was written, but something else that was read for it
        missing = error.errno == errno.ENOENT and not path.parent.exists()
        # pyarrow's own words for a full disk are several sentences.
        known = os.strerror(error.errno or 0) if is_full_disk(error) else error.strerror
        reason = f"{path.parent} is gone" if missing else known or str(error)
        raise WriteError(error.errno, reason, str(path)) from error
    except Exception as error:
        if (found := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise WriteError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors; not atomic by itself, so use it inside `new_folder`. Raises WriteError."""
    from safetensors.torch import save_file

    with writing(path):
        save_file(dict(tensors), path, metadata=metadata)


def replace_durably(scratch: Path, path: Path) -> None:
    """Give a finished file its name, on the disk too when this returns. Raises OSError."""
    _fsync(scratch)
    os.replace(scratch, path)
    _fsync(path.parent)


@contextmanager
def held_folder(folder: Path) -> Iterator[Path]:
    """For the block, a path to a folder that stays with it, even where its name is given to a link meanwhile.

    So it is on Linux; elsewhere it is the folder's own path. It means nothing to another process, and an OSError of
    the block names the folder as it is.
    Raises OSError where the folder is a link, a file, or not there.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    by_handle = Path(f"/proc/self/fd/{handle}")
    try:
        yield by_handle if by_handle.is_dir() else folder
    except OSError as error:
        if error.filename and (path := Path(os.fsdecode(error.filename))).is_relative_to(by_handle):
            error.filename = str(folder / path.relative_to(by_handle))
        raise
    finally:
        os.close(handle)


@contextmanager
def new_folder(path: Path, *, held: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends well, and vanishes when it does not.

    A folder already at `path` is replaced. Where another process puts one there in the meantime, theirs is kept.
    held: hold on to the empty folder, as `held_folder` does: others may write where it lies.
    Raises WriteError, leaving `path` as it was.
    """
    with writing(path):
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=path.parent))
        try:
            with held_folder(scratch) if held else nullcontext(scratch) as inside:
                yield inside
                for file in inside.rglob("*"):
                    if file.is_file():
                        # safetensors makes its files readable by the owner alone.
                        file.chmod(0o666 & ~_umask())
                        _fsync(file)
                inside.chmod(0o777 & ~_umask())
            _put(scratch, path)
            _fsync(path.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _put(scratch: Path, path: Path) -> None:
    """Give a finished folder its name, in the place of one that is there."""
    if not path.exists():
        try:
            os.replace(scratch, path)
        except OSError:
            if not path.exists():
                raise
        return
    old = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=path.parent))
    os.replace(path, old / "replaced")
    try:
        os.replace(scratch, path)
    except OSError:
        os.replace(old / "replaced", path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def remove_scratch(folder: Path) -> None:
    """Delete what a killed process left half-written directly inside `folder`."""
    for left in folder.glob(SCRATCH_PREFIX + "*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
