"""A person's own files: which ones a config names, and their rows, read one after the other."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from summarizer.config.paths import resolve_path
from summarizer.config.schema import Columns, DataConfig
from summarizer.data.columns import are_named, names_of, recognized
from summarizer.data.excel import PACKAGE, can_read_excel, read_xlsx, sheet_note
from summarizer.data.readers import SEPARATORS, read_csv, read_json, read_jsonl, read_parquet, separator_of
from summarizer.data.rows import ROWS_THAT_SHOW_COLUMNS, BadRow, RawRow, require_columns
from summarizer.data.saved import is_saved, read_saved, saved_columns, saved_problem, saved_splits
from summarizer.errors import ConfigError, Issue, nearest, sound

PEEKED_JSON_BYTES = 64 << 20
"""A JSON array beyond is first read when its rows are, as it can only be read as a whole."""


READERS: Mapping[str, Callable[[Path, frozenset[str]], Iterator[RawRow | BadRow]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".xlsx": read_xlsx,
}
"""By suffix, lower case; `.gz` may follow."""
WITH_ADVICE = {
    ".xls": "is of an Excel before 2007; save it as .xlsx or CSV",
    ".ods": "is not read here; save it as .xlsx or CSV",
}


def format_suffix(path: Path) -> str | None:
    """The key of READERS that a file's name asks for, or None."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in READERS else None


def find_files(key: str, patterns: str | list[str]) -> list[Path]:
    """The files that paths, globs or a list of them name: in that order, each glob's own sorted by name.

    key: the config key that a message names, such as "data.train".
    Raises ConfigError with every pattern that names nothing readable, and for a file named twice.
    """
    issues: list[Issue] = []
    found: list[Path] = []
    resolved: set[Path] = set()
    """The same, however they are spelt."""
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        files, problem = _match(pattern)
        if problem:
            issues.append(Issue(key, problem))
            continue
        for path in files:
            if path.is_dir() and (splits := saved_splits(path)):
                path, problem = _split_of(path, splits, key)
                if problem:
                    issues.append(Issue(key, problem))
                    continue
            if problem := _problem(path):
                issues.append(Issue(key, problem))
            elif path.resolve() in resolved:
                issues.append(Issue(key, f"{path} is named twice, so its rows would count twice"))
            else:
                found.append(path)
                resolved.add(path.resolve())
    if issues:
        raise ConfigError(issues)
    return found


def check_data_files(spec: DataConfig) -> list[Issue]:
    """What is wrong with the paths of a config, without reading any row: milliseconds."""
    issues: list[Issue] = []
    for split in ("train", "validation", "test"):
        named: str | list[str] | int | float | None = getattr(spec, split)
        key = f"data.{split}"
        if isinstance(named, int | float):
            continue  # rows of data.train
        if spec.source == "hub":
            if isinstance(named, list):
                issues.append(Issue(key, "a hub data set takes one split's name here, not a list"))
        elif named is not None:
            try:
                find_files(key, named)
            except ConfigError as error:
                issues.extend(error.issues)
    return issues


def check_columns(key: str, named: str | list[str], columns: Columns) -> list[Issue]:
    """What is wrong with the columns of a config, by the first rows of each file alone: milliseconds.

    key, named: as find_files takes them; of what it refuses, nothing is said here.
    """
    issues: dict[str, Issue] = {}
    try:
        paths = find_files(key, named)
    except ConfigError:
        return []
    paths = [path for path in paths if path.is_dir() or not _is_long_array(path)]
    found: list[Issue] = []
    columns = sound(lambda: file_columns(paths, columns), found) or columns
    for path in paths if not found else ():
        sound(partial(_require_columns_of, path, columns), found)
    for issue in found:
        issues.setdefault(issue.key, issue)
    return list(issues.values())


def _require_columns_of(path: Path, columns: Columns) -> None:
    if path.is_dir():  # what reads its rows takes a second to import
        require_columns([(f"{path.name} row 1", dict.fromkeys(saved_columns(path)))], columns)
    else:
        next(read_files([path], columns), None)


def _is_long_array(path: Path) -> bool:
    return _suffix(path) == ".json" and path.stat().st_size > PEEKED_JSON_BYTES


def file_columns(paths: Sequence[Path], columns: Columns) -> Columns:
    """What a row's fields are called in these files, by the first rows of the first one.

    Raises ConfigError where neither the config nor the names of the columns say it, and for a damaged file.
    """
    if are_named(columns) or not paths:
        return columns
    names = column_names(paths[0])
    return recognized(columns, names, paths[0].name) if names else columns


def column_names(path: Path) -> list[str]:
    """The names of a file's columns, by its first rows."""
    if path.is_dir():
        return saved_columns(path)
    head = islice(READERS[_suffix(path)](path, frozenset()), ROWS_THAT_SHOW_COLUMNS)
    return list(dict.fromkeys(str(name) for row in head if not isinstance(row, BadRow) for name in row[1]))


def file_notes(paths: Sequence[Path]) -> Iterator[str]:
    """How files are read where their names alone do not say it."""
    separated: dict[str, list[str]] = {}
    for path in paths:
        if path.is_dir():
            continue
        if _suffix(path) in (".csv", ".tsv"):
            separated.setdefault(separator_of(path), []).append(path.name)
        elif _suffix(path) == ".xlsx" and (note := sheet_note(path)):
            yield note
    for separator, names in separated.items():
        if others := [name for name in names if separator != ("\t" if ".tsv" in name.lower() else ",")]:
            yield f"{', '.join(others)}: fields are separated by {SEPARATORS[separator]}"


def read_files(paths: Sequence[Path], columns: Columns) -> Iterator[RawRow | BadRow]:
    """Every row of the files, one after the other, with where it lies ("train.jsonl.gz row 17").

    columns: as `file_columns` has them.
    Raises ConfigError for a damaged file, and for a column that no row of a file has.
    """
    wanted = names_of(columns)
    for path in paths:
        yield from require_columns(rows_of(path, wanted), columns)


def rows_of(path: Path, wanted: frozenset[str]) -> Iterator[RawRow | BadRow]:
    """Every row of a file, or of a saved data set's folder; the wanted columns alone where that saves time.

    Raises ConfigError for a damaged file, and for a wanted column that is there twice.
    """
    return read_saved(path, wanted) if path.is_dir() else READERS[_suffix(path)](path, wanted)


def _match(pattern: str) -> tuple[list[Path], str | None]:
    """Files, or why there are none."""
    path = resolve_path(pattern, "data")
    if path.exists():
        return [path], None
    if glob.has_magic(str(path)):
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
        return files, None if files else f"no file matches {pattern!r}"
    if (share := re.fullmatch(r"(\d+(?:\.\d+)?)%", pattern)) is not None:
        return [], f"{pattern!r} is no path; a share is typed as {float(share[1]) / 100:g}"
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    return [], f"no such file: {pattern}" + (f"; did you mean {near!r}?" if near else "")


def _problem(path: Path) -> str | None:
    if path.is_dir():
        if is_saved(path):
            return saved_problem(path)
        return f"{path} is a folder; name its files, such as {path / '*.jsonl'}"
    if why := WITH_ADVICE.get(path.suffix.lower()):
        return f"{path} {why}"
    if format_suffix(path) is None:
        return f"{path} is of no known kind; valid suffixes: {', '.join(READERS)}, each also with .gz"
    if format_suffix(path) == ".xlsx" and not can_read_excel():
        return f"{path} takes a package that is not installed: pip install '{PACKAGE}'"
    if path.stat().st_size == 0:
        return f"{path} is empty"
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"


def _split_of(folder: Path, splits: Sequence[str], key: str) -> tuple[Path, str | None]:
    """The folder of the split that a config key asks a saved data set for, or why there is none."""
    wanted = key.removeprefix("data.")
    if wanted in splits:
        return folder / wanted, None
    listed = f"its splits are {', '.join(splits)}"
    other = next((name for name in splits if name != "train"), splits[0])
    return folder, f"{folder} has no split {wanted!r}; {listed}; name one: {key}={folder / other}"


def _suffix(path: Path) -> str:
    """The key of READERS for a file that `find_files` found."""
    suffix = format_suffix(path)
    assert suffix is not None, f"find_files let {path} through"
    return suffix
