"""What wandb's offline files of a run hold: read when the run is resumed, to go on where they end.

A `.wandb` file is a LevelDB log (its doc/log_format.md: blocks of 32 KiB; each part has 4 bytes of checksum, 2 of
length, 1 of kind) of wandb's protobuf records, after a header of 7 bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE_HEADER_BYTES = 7
BLOCK_BYTES = 32768
PART = struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def last_recorded_step(folder: Path, run: str) -> int | None:
    """The last step in the history of a wandb run's offline files below a run folder; None without any."""
    steps = [
        json.loads(item.value_json)
        for file in sorted(folder.glob(f"wandb/offline-run-*-{run}/run-{run}.wandb"))
        for record in read_records(file)
        if record.WhichOneof("record_type") == "history"
        for item in record.history.item
        if "_step" in (item.key, *item.nested_key)
    ]
    return max(steps, default=None)


def read_records(file: Path) -> Iterator[Any]:
    """Each whole record, in order, as wandb's protobuf `Record`. What a kill cut short at the end is left out."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto.wandb_internal_pb2 import Record

    for data in _whole(file.read_bytes()):
        try:
            yield Record.FromString(data)
        except DecodeError:
            return


def _whole(data: bytes) -> Iterator[bytes]:
    place, parts = FILE_HEADER_BYTES, b""
    while place + PART.size <= len(data):
        left = BLOCK_BYTES - place % BLOCK_BYTES
        if left < PART.size:  # too little for a part's header: the block ends in padding
            place += left
            continue
        _, length, kind = PART.unpack_from(data, place)
        place += PART.size
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or place + length > len(data):
            return
        parts = (
            data[place : place + length] if kind in (WHOLE, FIRST) else parts + data[place : place + length]
        )
        place += length
        if kind in (WHOLE, LAST):
            yield parts
