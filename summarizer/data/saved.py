"""A data set that `datasets` saved to disk: a folder of Arrow files, or one with such a folder for each split.

The folder may come from elsewhere: it is opened only where all in it is its own, and it names no file outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from summarizer.data.readers import damaged
from summarizer.data.rows import BadRow, RawRow
from summarizer.errors import ConfigError
from summarizer.files import read_own, strangers
from summarizer.json_files import parse_json

SPLITS_FILE, INFO_FILE, STATE_FILE = "dataset_dict.json", "dataset_info.json", "state.json"
"""Of the folder of several splits; of that of one."""


def is_saved(folder: Path) -> bool:
    """Whether a folder is what `Dataset.save_to_disk` makes."""
    return (folder / STATE_FILE).is_file() and (folder / INFO_FILE).is_file()


def saved_splits(folder: Path) -> list[str]:
    """The splits of a folder that `DatasetDict.save_to_disk` made, each a folder of its own; none of any other."""
    if not (folder / SPLITS_FILE).is_file():
        return []
    named = _content(folder / SPLITS_FILE).get("splits")
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    return [name for name in names if PurePath(name).name == name and is_saved(folder / name)]


def saved_problem(folder: Path) -> str | None:
    """Why a saved data set is not opened; None where it can be."""
    try:
        found = next(strangers(folder), None)
        if found is not None:
            return f"{folder} is not opened: {found[0].name} in it is {found[1]}"
        files = _content(folder / STATE_FILE).get("_data_files")
        names = [file.get("filename") for file in files] if isinstance(files, list) else []
        for name in names:
            if not isinstance(name, str) or PurePath(name).name != name or not (folder / name).is_file():
                return f"{folder} is not opened: its {STATE_FILE} names {str(name)!r}, which is no file in it"
    except (OSError, AttributeError) as error:
        return f"{folder} cannot be read: {error}"
    except ConfigError as error:
        return error.issues[0].fact
    return None if names else f"{folder} names no file of rows in its {STATE_FILE}"


def saved_columns(folder: Path) -> list[str]:
    """The names of the columns, without a library."""
    features = _content(folder / INFO_FILE).get("features")
    return [str(name) for name in features] if isinstance(features, dict) else []


def read_saved(folder: Path, wanted: frozenset[str]) -> Iterator[RawRow | BadRow]:
    """Its rows, memory-mapped: the wanted columns where it has them all. Raises ConfigError for a damaged one."""
    import datasets
    import pyarrow as pa

    try:
        dataset = datasets.load_from_disk(str(folder)).with_format(None)
        if wanted <= set(dataset.column_names):
            dataset = dataset.select_columns(sorted(wanted))
        for number, row in enumerate(dataset, start=1):
            yield f"{folder.name} row {number}", row
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder, f"is no data set that can be read: {' '.join(str(error).split())}") from error


def _content(path: Path) -> dict[str, Any]:
    """What one of its JSON files holds. Raises ConfigError for what is no object."""
    try:
        content = parse_json(read_own(path))
    except (OSError, ValueError) as error:
        raise damaged(path, f"cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise damaged(path, "holds no object")
    return content
