"""A split's raw rows, whichever kind of source they come from, and what tells them from others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from summarizer.config.schema import Columns, DataConfig
from summarizer.data.columns import said
from summarizer.data.files import file_columns, file_notes, find_files, read_files
from summarizer.data.hold_out import SplitName, hold_out, hold_out_of, rows_from
from summarizer.data.rows import BadRow, RawRow, Row
from summarizer.data.tokenize import checked_rows
from summarizer.errors import ConfigError

if TYPE_CHECKING:
    import datasets

    from summarizer.data.prompt import Prompt

HASHED_FILE_BYTES = 64 * 2**20
"""Files below this size are told apart by their content too; larger ones by name, size and time alone."""


@dataclass(frozen=True)
class Source:
    """The raw rows of one split, or of the one that it is held out of."""

    read: Callable[[], Iterator[RawRow | BadRow]]
    """Starts reading at the first row, each time it is called."""
    columns: Columns
    """What the fields of a row are called there."""
    total: int | None
    """How many rows there are, where that is known without reading them."""
    identity: tuple[Any, ...] | None
    """Changes when the rows do (JSON values); None where only reading would tell, as of a streamed set."""
    described: str
    """What a message calls it."""
    notes: tuple[str, ...] = ()
    """How the rows are read, as far as no config says so: a line each."""

    def checked(self, spec: DataConfig, split: SplitName, prompt: Prompt) -> Iterator[Row | BadRow]:
        """The split's rows, each usable one as a Row, with what `data.validation` holds out on its own side.

        Raises ConfigError where that leaves nothing to train on.
        """
        rows = checked_rows(self.read(), self.columns, prompt)
        wanted = hold_out_of(spec)
        if wanted is None or split == "test":
            return rows
        return hold_out(wanted, self.read(), self.columns).side(rows, split)


def open_source(spec: DataConfig, split: SplitName) -> Source:
    """Find a split's rows. Raises ConfigError where the config names none, or none that can be read."""
    place, named = rows_from(spec, split)
    key = f"data.{place}"
    if named is None:
        how = "a path" if spec.source == "files" else "the name of one of the data set's splits"
        raise ConfigError.single(key, f"null, but this run needs the {split} split", f"set {key} to {how}")
    if spec.source == "files":
        paths = find_files(key, named)
        columns = file_columns(paths, spec.columns)
        return Source(
            read=lambda: read_files(paths, columns),
            columns=columns,
            total=None,
            identity=tuple(one for path in paths for one in _identities(path)),
            described=", ".join(path.name for path in paths),
            notes=tuple(note for note in (said(columns, spec.columns), *file_notes(paths)) if note),
        )
    if isinstance(named, list):
        raise ConfigError.single(key, "a hub data set takes one split's name here, not a list")
    return _hub_source(spec, place, named)


def _hub_source(spec: DataConfig, split: str, split_name: str) -> Source:
    import datasets

    from summarizer.data.hub import hub_columns, load_hub_split, read_hub

    dataset = load_hub_split(spec, split, split_name)
    total, identity = None, None
    if isinstance(dataset, datasets.Dataset):
        total = dataset.num_rows
        if (made_from := _made_from(dataset, split_name)) is not None:
            identity = (spec.path, spec.config, split_name, made_from)
    columns = hub_columns(dataset, spec, split_name)
    note = said(columns, spec.columns)
    return Source(
        read=lambda: read_hub(dataset, columns, f"{spec.path} {split_name}"),
        columns=columns,
        total=total,
        identity=identity,
        described=f"{spec.path} {split_name}",
        notes=() if note is None else (note,),
    )


def _made_from(dataset: datasets.Dataset, split_name: str) -> str | None:
    """A hash of what a loaded split was made from; None where `datasets` keeps it in memory alone.

    `datasets` names the folder of what it made after the data set, its config, its version, and a hash of the files
    that it was made from: its own fingerprint, which is not public, is this hash of them and of the split.
    """
    from datasets.fingerprint import Hasher

    if not dataset.cache_files:
        return None
    folder = Path(dataset.cache_files[0]["filename"]).parent
    hasher = Hasher()
    hasher.update(Path(*folder.parts[-4:]).as_posix())
    hasher.update(split_name)
    return str(hasher.hexdigest())


def _identities(path: Path) -> Iterator[tuple[str, int, int, str | None]]:
    """What tells a file from others, or the files of a saved data set's folder."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            yield _file_identity(file)


def _file_identity(path: Path) -> tuple[str, int, int, str | None]:
    stat = path.stat()
    content = None
    if stat.st_size < HASHED_FILE_BYTES:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    return path.name, stat.st_size, stat.st_mtime_ns, content
