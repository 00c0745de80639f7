"""How far wandb's own record of a run came: its `.wandb` file, as wandb itself writes it while offline.

The file is a LevelDB log of protobuf records (LevelDB's doc/log_format.md) after a header of seven bytes, with
plain CRC-32 checksums. It may come from elsewhere: every block is checked, and nothing in it is run.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from summarizer.errors import ConfigError
from summarizer.files import read_own
from summarizer.json_files import parse_json

MOST_BYTES = 2**30
"""Of a file that is read back."""
HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
BLOCK_BYTES, BLOCK_HEADER = 32_768, struct.Struct("<IHB")
WHOLE, LAST = 1, 4
"""Kinds of a block's part that end a record; 2 and 3 are its first and middle parts."""
KINDS = {
    "Item": {"key": (1, "text"), "nested_key": (2, "texts"), "value_json": (16, "text")},
    "Config": {"update": (1, "Item")},
    "History": {"item": (1, "Item")},
    "Summary": {"update": (1, "Item")},
    "Run": {"run_id": (1, "text"), "config": (4, "Config"), "job_type": (7, "text")},
    "Exit": {"exit_code": (1, "number")},
    "Record": {
        "history": (2, "History"),
        "summary": (3, "Summary"),
        "config": (5, "Config"),
        "run": (17, "Run"),
        "exit": (18, "Exit"),
    },
}
"""The part of wandb's messages that is read here: numbers and types of fields by name. A `Record` has one set.

Source: wandb's wandb/proto/wandb_internal.proto, whose Python classes are not public. The numbers stay as they are,
since `wandb sync` has to read the files of older versions.
"""


log = logging.getLogger(__name__)


def last_recorded_step(folder: Path, run: str) -> int | None:
    """The last step in the history of a wandb run's offline files below a run folder; None without any.

    A damaged file counts as far as it can be read, and is named in the log.
    """
    last = None
    for file in sorted(folder.glob(f"wandb/offline-run-*-{run}/run-{run}.wandb")):
        try:
            for record in read_records(file):
                if record.WhichOneof("record_type") == "history":
                    row = _values(record.history.item)
                    if any(
                        not key.startswith("_") for key in row
                    ):  # wandb's own, of a row that was never filled
                        last = max(last or 0, int(row.get("_step", 0)))
        except (ConfigError, ValueError, TypeError) as error:
            log.warning("what wandb kept of this run before is not whole: %s", error)
    return last


def read_records(file: Path) -> Iterator[Any]:
    """Each whole record, in order, as the protobuf message `Record` of KINDS.

    Raises ConfigError where it is no such file, or is damaged before its end.
    """
    from google.protobuf.message import DecodeError

    try:
        for raw in read_raw(file):
            yield _record_class().FromString(raw)
    except DecodeError as error:
        raise ConfigError.single(str(file), f"damaged: {error}") from error


def read_raw(file: Path) -> Iterator[bytes]:
    """Each whole record, in order, as it is encoded. Raises as `read_records` does."""
    try:
        data = read_own(file, MOST_BYTES)
    except OSError as error:
        raise ConfigError.single(str(file), f"cannot be read: {error.strerror}") from error
    if not data.startswith(HEADER):
        raise ConfigError.single(str(file), "not a file of wandb's" if data else "it is empty")
    try:
        yield from _records(data)
    except ValueError as error:
        raise ConfigError.single(str(file), f"damaged: {error}") from error


@cache
def _record_class() -> Any:
    """The class of `Record` messages, made of KINDS."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field_of = descriptor_pb2.FieldDescriptorProto
    types = {"text": field_of.TYPE_STRING, "texts": field_of.TYPE_STRING, "number": field_of.TYPE_INT32}
    file = descriptor_pb2.FileDescriptorProto(name="records.proto", syntax="proto3")
    for kind, fields in KINDS.items():
        message = file.message_type.add(name=kind)
        if kind == "Record":
            message.oneof_decl.add(name="record_type")
        for name, (number, what) in fields.items():
            many = what in ("texts", "Item")
            described = message.field.add(
                name=name, number=number, label=field_of.LABEL_REPEATED if many else field_of.LABEL_OPTIONAL
            )
            if what in types:
                described.type = types[what]
            else:
                described.type, described.type_name = field_of.TYPE_MESSAGE, what
            if kind == "Record":
                described.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Record"))


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


def _values(items: Iterable[Any]) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: parse_json(item.value_json) for item in items}
