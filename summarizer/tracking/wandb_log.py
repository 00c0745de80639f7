"""What wandb kept of a run on disk: its `.wandb` file, as wandb itself writes it while offline.

The file is a LevelDB log of protobuf records (LevelDB's doc/log_format.md) after a header of seven bytes, with
plain CRC-32 checksums. It may come from elsewhere: every block is checked, and nothing in it is run.
"""

from __future__ import annotations

import json
import logging
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from summarizer.errors import ConfigError

HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
BLOCK_BYTES, BLOCK_HEADER = 32_768, struct.Struct("<IHB")
WHOLE, LAST = 1, 4
"""Kinds of a block's part that end a record; 2 and 3 are its first and middle parts."""


log = logging.getLogger(__name__)


@dataclass(eq=False)
class WandbLog:
    """The records of one file, put together."""

    id: str | None = None
    job_type: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """Nested keys are joined by `/`."""
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    """None while it goes on, or where it was killed."""


def read_log(file: Path) -> WandbLog:
    """A run's record. What a kill cut short at its end is left out.

    Raises ConfigError where it is no such file, names no run, or is damaged before its end.
    """
    found = WandbLog()
    for record in read_records(file):
        _take(found, record)
    if found.id is None:
        raise ConfigError.single(str(file), "it is cut off before it names its run")
    return found


def last_recorded_step(folder: Path, run: str) -> int | None:
    """The last step in the history of a wandb run's offline files below a run folder; None without any.

    A damaged file counts as far as it can be read, and is named in the log.
    """
    last = None
    for file in sorted(folder.glob(f"wandb/offline-run-*-{run}/run-{run}.wandb")):
        try:
            for record in read_records(file):
                if record.WhichOneof("record_type") == "history":
                    last = max(last or 0, _values(record.history.item).get("_step", 0))
        except ConfigError as error:
            log.warning("what wandb kept of this run before is not whole: %s", error)
    return last


def read_records(file: Path) -> Iterator[Any]:
    """Each whole record, in order, as wandb's protobuf `Record`.

    Raises ConfigError where it is no such file, or is damaged before its end.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError.single(str(file), f"cannot be read: {error.strerror}") from error
    if not data.startswith(HEADER):
        raise ConfigError.single(str(file), "not a file of wandb's" if data else "it is empty")
    try:
        for raw in _records(data):
            yield Record.FromString(raw)
    except (DecodeError, ValueError) as error:
        raise ConfigError.single(str(file), f"damaged: {error}") from error


def _records(data: bytes) -> Iterator[bytes]:
    """Whole records. Raises ValueError where a block before the end is damaged."""
    place, parts = len(HEADER), b""
    while place + BLOCK_HEADER.size <= len(data):
        left = BLOCK_BYTES - place % BLOCK_BYTES
        if left < BLOCK_HEADER.size:  # too little for a header: the block is filled up with zeros
            place += left
            continue
        checksum, length, kind = BLOCK_HEADER.unpack_from(data, place)
        start = place + BLOCK_HEADER.size
        place = start + length
        part = data[start:place]
        if place > len(data) or (not kind and not any(data[start:])):
            return
        if zlib.crc32(part, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"wrong checksum at byte {start}")
        parts += part
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""


def _take(found: WandbLog, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        found.id, found.job_type = record.run.run_id, record.run.job_type
        found.config |= _values(record.run.config.update)
    elif kind == "config":
        found.config |= _values(record.config.update)
    elif kind == "history":
        found.history.append(_values(record.history.item))
    elif kind == "summary":
        found.summary |= _values(record.summary.update)
    elif kind == "exit":
        found.exit_code = record.exit.exit_code


def _values(items: Iterable[Any]) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
