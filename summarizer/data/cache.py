"""Tokenized splits on disk: written whole or not at all, memory-mapped the next time."""

from __future__ import annotations

import hashlib
import json
import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from summarizer import atomic
from summarizer.config.paths import cache_folder
from summarizer.data.rows import BadRow, SplitReport, TokenizedRow
from summarizer.digests import check_digests, write_digests
from summarizer.errors import ConfigError

FORMAT = 3
"""Of an entry; one more when what is stored, or how a text is tokenized, changes."""
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("article", pa.string()),
        ("summary", pa.string()),
        ("article_ids", pa.list_(pa.int32())),
        ("target_ids", pa.list_(pa.int32())),
    ]
)
ROWS_FILE, REPORT_FILE = "rows.arrow", "report.json"
BATCH_ROWS = 256

log = logging.getLogger(__name__)


class StoredRows:
    """An entry's rows, memory-mapped: `datasets` would read them alike, and takes two seconds to be imported."""

    def __init__(self, file: Path, *, in_memory: bool = False) -> None:
        """Raises OSError, or ValueError for what is no such file.  in_memory: the file may go from now on."""
        source = pa.BufferReader(file.read_bytes()) if in_memory else pa.memory_map(str(file))
        self._batches: list[pa.RecordBatch] = list(pa.ipc.open_stream(source))
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))
        self.table = pa.Table.from_batches(self._batches, SCHEMA)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, name: str) -> list[Any]:
        """All of one column."""
        values: list[Any] = self.table.column(name).to_pylist()
        return values

    def columns(self, names: Sequence[str], indices: Sequence[int]) -> dict[str, list[Any]]:
        """Those columns of the rows of those numbers, in that order."""
        places = [self._place(index) for index in indices]
        return {name: [batch.column(name)[row].as_py() for batch, row in places] for name in names}

    def _place(self, index: int) -> tuple[pa.RecordBatch, int]:
        number = bisect_right(self._ends, index)
        return self._batches[number], index - (self._ends[number - 1] if number else 0)


Entry = tuple[StoredRows, SplitReport, str]
"""Rows, what was read into them, and the fingerprint of their texts."""


class EntryWriter:
    """Writes rows into a folder as they come, holding one batch of them in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stream = pa.ipc.new_stream(folder / ROWS_FILE, SCHEMA)
        self._pending: list[TokenizedRow] = []
        self._digest = hashlib.sha256()

    def add(self, row: TokenizedRow) -> None:
        for text in (row.row.id, row.row.article, row.row.summary):
            content = text.encode()
            # With its length, so that no two texts run together.
            self._digest.update(len(content).to_bytes(8, "big") + content)
        self._pending.append(row)
        if len(self._pending) == BATCH_ROWS:
            self._flush()

    def close(self, report: SplitReport) -> None:
        """Finish the entry; without this it is not one."""
        self._flush()
        self._stream.close()
        content = {
            "report": asdict(report),
            "fingerprint": self._digest.hexdigest(),
        }
        atomic.write_text(self._folder / REPORT_FILE, json.dumps(content))
        write_digests(self._folder, [ROWS_FILE, REPORT_FILE])

    def abandon(self) -> None:
        """Let go of the files of an entry that came to nothing."""
        self._stream.close()

    def _flush(self) -> None:
        columns = {
            "id": [row.row.id for row in self._pending],
            "article": [row.row.article for row in self._pending],
            "summary": [row.row.summary for row in self._pending],
            "article_ids": [row.article_ids for row in self._pending],
            "target_ids": [row.target_ids for row in self._pending],
        }
        self._stream.write_batch(pa.RecordBatch.from_pydict(columns, SCHEMA))
        self._pending.clear()


def entry_key(parts: dict[str, Any]) -> str:
    """A name for an entry, from all that it depends on (JSON values)."""
    content = json.dumps({"format": FORMAT, **parts}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def cached(key: str, build: Callable[[Path], None]) -> Entry:
    """The entry of that key, built into an empty folder first where there is none.

    One process builds while others of the same key wait. A damaged entry is rebuilt, with a warning.
    Raises ConfigError where the cache cannot be written, and whatever `build` raises.
    """
    from filelock import FileLock

    home = cache_folder() / "data" / key
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / "lock").acquire()
    except OSError as error:
        raise ConfigError.single(
            "",
            f"the cache folder {cache_folder()} cannot be written ({error.strerror}); set $SUMMARIZER_CACHE",
        ) from error
    with lock:
        entry = home / "entry"
        if entry.exists():
            try:
                return read_entry(entry)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("the tokenized data in %s are made anew: %s", entry, error)
        atomic.remove_scratch(home)
        with atomic.new_folder(entry) as folder:
            build(folder)
        return read_entry(entry)


def read_entry(folder: Path, *, in_memory: bool = False) -> Entry:
    """Raises OSError, ValueError (pyarrow's own among them), KeyError or TypeError for a damaged entry."""
    if not check_digests(folder):
        raise ValueError("they have no digests yet")
    content = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    fields = dict(content["report"])
    fields["bad"] = tuple(BadRow(**row) for row in fields["bad"])
    rows = StoredRows(folder / ROWS_FILE, in_memory=in_memory)
    return rows, SplitReport(**fields), str(content["fingerprint"])
