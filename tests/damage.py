"""What can happen to a file between its writing and its reading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[2 * len(content) // 3] ^= 0x10
    file.write_bytes(content)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "one bit flipped": _flip,
    "cut in half": _cut,
    "zeroed": _zero,
    "deleted": Path.unlink,
}
