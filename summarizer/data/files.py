"""A person's own files: which ones a config names, and their rows, read one after the other."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from summarizer.config.paths import resolve_path
from summarizer.config.schema import Columns, DataConfig
from summarizer.data.readers import READERS, format_suffix
from summarizer.data.rows import BadRow, RawRow, require_columns
from summarizer.errors import ConfigError, Issue, nearest

PEEKED_JSON_BYTES = 64 << 20
"""A JSON array beyond is first read when its rows are, as it can only be read as a whole."""


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
        named: str | list[str] | None = getattr(spec, split)
        key = f"data.{split}"
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
    for path in paths:
        if _suffix(path) == ".json" and path.stat().st_size > PEEKED_JSON_BYTES:
            continue
        try:
            next(read_files([path], columns), None)
        except ConfigError as error:
            for issue in error.issues:
                issues.setdefault(issue.key, issue)
    return list(issues.values())


def read_files(paths: Sequence[Path], columns: Columns) -> Iterator[RawRow | BadRow]:
    """Every row of the files, one after the other, with where it lies ("train.jsonl.gz row 17").

    Raises ConfigError for a damaged file, and for a column that no row of a file has.
    """
    wanted = frozenset(name for name in (columns.article, columns.summary, columns.id) if name is not None)
    for path in paths:
        yield from require_columns(READERS[_suffix(path)](path, wanted), columns)


def _match(pattern: str) -> tuple[list[Path], str | None]:
    """Files, or why there are none."""
    path = resolve_path(pattern, "data")
    if path.exists():
        return [path], None
    if glob.has_magic(str(path)):
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
        return files, None if files else f"no file matches {pattern!r}"
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    return [], f"no such file: {pattern}" + (f"; did you mean {near!r}?" if near else "")


def _problem(path: Path) -> str | None:
    if path.is_dir():
        return f"{path} is a folder; name its files, such as {path / '*.jsonl'}"
    if format_suffix(path) is None:
        return f"{path} is of no known kind; valid suffixes: {', '.join(READERS)}, each also with .gz"
    if path.stat().st_size == 0:
        return f"{path} is empty"
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"


def _suffix(path: Path) -> str:
    """The key of READERS for a file that `find_files` found."""
    suffix = format_suffix(path)
    assert suffix is not None, f"find_files let {path} through"
    return suffix
