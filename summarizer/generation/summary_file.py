"""A file of summaries: a line is added as each one is done, and after any interruption the rest is added.

Beside `FILE.jsonl` lies `FILE.jsonl.settings.json`, which says what made it: a file that was made with other
settings is not continued. A line that a kill or a full disk cut short is written again. At the end the lines are
put into the order of the articles.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from summarizer.atomic import write_text
from summarizer.config import messages
from summarizer.config.paths import nearest_existing, shown
from summarizer.data.articles import Item
from summarizer.errors import ConfigError, Issue
from summarizer.files import open_own, read_own
from summarizer.json_files import parse_json

KEY = "--output"
SUFFIX = ".jsonl"
Key = tuple[str, str]
"""An item's id and its article's digest. Two items may share both."""
MOST_BYTES = 2**30
"""Of a file of summaries that is continued."""
ANOTHER_FILE = "name another file"
SYNC_EVERY_S = 10.0
"""What a power cut may cost, at most; a killed process costs the line that it was writing."""


@dataclass(frozen=True)
class Summary:
    """The summary of an item, and how much of the item's article was read for it."""

    item: Item
    prediction: str
    article_tokens: int
    cut_tokens: int
    """How many tokens at the article's end did not fit into the prompt."""

    def line(self) -> str:
        """The summary as one JSON object; its id, prediction and reference are as in a run's predictions."""
        row: dict[str, object] = {
            "id": self.item.id,
            "source": self.item.source,
            "prediction": self.prediction,
            **({} if self.item.reference is None else {"reference": self.item.reference}),
            "article_tokens": self.article_tokens,
            "cut_tokens": self.cut_tokens,
            "article_digest": self.item.digest,
        }
        return json.dumps(row, ensure_ascii=False) + "\n"


def settings_path(path: Path) -> Path:
    """Where the settings lie that made the file at `path`."""
    return path.with_name(path.name + ".settings.json")


def lock_path(path: Path) -> Path:
    """The lock that keeps a second process from writing the file at `path`."""
    return path.with_name(f".{path.name}.lock")


class SummaryFile:
    """An open file of summaries that this process alone writes. `left` are the items that it does not hold yet."""

    def __init__(
        self, path: Path, items: Sequence[Item], held: Mapping[Key, list[str]], whole_bytes: int, name: str
    ) -> None:
        """held: the lines in the first `whole_bytes`; what comes after them goes.  name: for messages."""
        self.path, self.name, self._items = path, name, items
        self._lines = defaultdict(list, {key: list(lines) for key, lines in held.items()})
        self.left = _not_held(items, held)
        self._handle = open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, links=True)
        if os.fstat(self._handle).st_size > whole_bytes:
            os.ftruncate(self._handle, whole_bytes)
        self._synced_s = time.monotonic()

    def append(self, summary: Summary) -> None:
        """Write a summary's line now. Raises OSError with the file's name where the disk refuses."""
        line = summary.line()
        rest = line.encode()
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            if time.monotonic() - self._synced_s > SYNC_EVERY_S:
                os.fsync(self._handle)
                self._synced_s = time.monotonic()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from error
        self._lines[_key(summary.item)].append(line)

    def put_in_order(self) -> None:
        """Sort the lines into the order of the items, once there is one for each. The file is replaced in one step.

        Lines that an earlier process wrote take their item's source and reference as they are now.
        """
        held = {key: iter(lines) for key, lines in self._lines.items()}
        text = "".join(_as_now(next(held[_key(item)]), item) for item in self._items)
        if text.encode() != self.path.read_bytes():
            write_text(self.path, text)

    @property
    def held(self) -> int:
        """How many summaries are in the file."""
        return sum(map(len, self._lines.values()))

    @property
    def cut(self) -> int:
        """How many of the summaries in the file are of an article that was cut."""
        return sum(
            json.loads(line).get("cut_tokens", 0) > 0 for lines in self._lines.values() for line in lines
        )

    def close(self) -> None:
        os.close(self._handle)


@contextmanager
def open_summaries(
    path: Path,
    items: Sequence[Item],
    settings: Mapping[str, Any],
    elsewhere: str = ANOTHER_FILE,
    name: Path | None = None,
) -> Iterator[SummaryFile]:
    """Open the file at `path` for the block, with the summaries that earlier processes wrote into it.

    settings: everything besides the article that decides on a summary's words.
    elsewhere: what a person is told to do where the file cannot be continued.  name: the file as messages have it,
    where `path` leads through a held folder.
    Raises ConfigError where another process writes the file, where it was made with other settings or from other
    articles, or where it is not a file of summaries; nothing is changed then.
    """
    if name is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    name_shown = shown(name or path)
    lock = FileLock(lock_path(path))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError.single(KEY, f"another process is writing {name_shown} now") from error
    try:
        try:
            lines, whole_bytes = _whole_lines(path)
            before = _settings_of(path) if path.exists() and path.stat().st_size else {}
            held = _by_key(lines)
        except NotSummariesError as error:
            raise ConfigError.single(
                KEY, f"{name_shown} exists but cannot be continued: {error}; {elsewhere}, or delete this one"
            ) from error
        if lines and (found := differences(before, settings)):
            raise ConfigError(
                Issue(KEY, f"{name_shown} was made with other settings: {difference}; {elsewhere}")
                for difference in found
            )
        _require_same_articles(name_shown, items, held, elsewhere)
        write_text(settings_path(path), json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        file = SummaryFile(path, items, held, whole_bytes, name_shown)
        try:
            yield file
        finally:
            file.close()
    finally:
        lock_path(path).unlink(missing_ok=True)  # still held: who opened it meanwhile sees that it is gone
        lock.release()


def output_issues(path: Path, read: Sequence[str]) -> Iterator[Issue]:
    """Why a path cannot be this command's output.  read: the files that it is to summarize."""
    if path.suffix != SUFFIX:
        yield Issue(KEY, f"{path} must end in {SUFFIX}: it gets one JSON object a line")
    if path.exists() and not path.is_file():
        yield Issue(KEY, f"{path} is no regular file")
    if not (above := nearest_existing(path.parent)).is_dir():
        yield Issue(KEY, f"{above} is a file, so that no folder can be made below it")
    if path.resolve() in {Path(name).resolve() for name in read}:
        yield Issue(KEY, f"{path} is one of the files to summarize")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two settings of summaries differ in, as words for each."""
    return [
        "the adapter was another one"
        if key == "adapter" and None not in (before.get(key), now.get(key))
        else f"{key} was {messages.shown(before.get(key))}, now it is {messages.shown(now.get(key))}"
        for key in dict.fromkeys([*now, *before])
        if before.get(key) != now.get(key)
    ]


class NotSummariesError(ValueError):
    """Why a file that exists is no file of summaries, such as "it is not UTF-8 text"."""


def _key(item: Item) -> Key:
    return item.id, item.digest


def _as_now(line: str, item: Item) -> str:
    """A line with the item's present source and reference, on which its summary does not depend."""
    row = json.loads(line) | {"source": item.source, "reference": item.reference}
    if item.reference is None:
        del row["reference"]
    return json.dumps(row, ensure_ascii=False) + "\n"


def _not_held(items: Sequence[Item], held: Mapping[Key, Sequence[str]]) -> list[Item]:
    counts = Counter({key: len(lines) for key, lines in held.items()})
    left = []
    for item in items:
        if counts[_key(item)]:
            counts[_key(item)] -= 1
        else:
            left.append(item)
    return left


def _whole_lines(path: Path) -> tuple[list[str], int]:
    """The lines that were written to their end, and how many bytes they are. Raises NotSummariesError."""
    if not path.exists():
        return [], 0
    content = read_own(path, MOST_BYTES, links=True)
    whole = content[: content.rfind(b"\n") + 1]
    try:
        return [line.decode() for line in whole.splitlines(keepends=True)], len(whole)
    except UnicodeDecodeError as error:
        raise NotSummariesError("it is not UTF-8 text") from error


def _by_key(lines: Sequence[str]) -> dict[Key, list[str]]:
    """The lines by their items' keys. Raises NotSummariesError."""
    held: dict[Key, list[str]] = defaultdict(list)
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
            held[str(row["id"]), str(row["article_digest"])].append(line)
            if not isinstance(row.get("cut_tokens", 0), int):
                raise TypeError("cut_tokens is no number")
        except (ValueError, KeyError, TypeError) as error:
            raise NotSummariesError(f"its line {number} is no summary") from error
    return held


def _settings_of(path: Path) -> dict[str, Any]:
    """The settings that the file at `path` was made with. Raises NotSummariesError."""
    beside = settings_path(path)
    try:
        settings = parse_json(read_own(beside))
    except FileNotFoundError as error:
        raise NotSummariesError(f"there is no {beside.name} beside it") from error
    except (OSError, ValueError) as error:
        raise NotSummariesError(f"{beside.name} beside it cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise NotSummariesError(f"{beside.name} beside it is none of this command's")
    return settings


def _require_same_articles(
    name: str, items: Sequence[Item], held: Mapping[Key, Sequence[str]], elsewhere: str
) -> None:
    counts = Counter(_key(item) for item in items)
    strangers = [key[0] for key, lines in held.items() for _ in lines[counts[key] :]]
    if strangers:
        raise ConfigError.single(
            KEY,
            f"{name} holds {len(strangers)} summaries of articles that are not in this input, or not as "
            f"they were (such as id {strangers[0]!r}); {elsewhere}",
        )
