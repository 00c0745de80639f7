"""Digests of a folder's files: whatever happens to one of them is seen, and said by its name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from damage import DAMAGE

from summarizer.digests import DIGESTS, check_digests, write_digests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "numbers.bin").write_bytes(os.urandom(100_000))
    (tmp_path / "words.json").write_text('{"a": 1}')
    (tmp_path / "another's").write_text("not noted")
    write_digests(tmp_path, ["words.json", "numbers.bin"])
    return tmp_path


def test_what_is_as_it_was_written_is_told_by_its_sizes(folder: Path) -> None:
    sizes: list[int] = []
    assert check_digests(folder, sizes.append)
    assert sizes == [100_000, 8]
    (folder / "another's").unlink()
    assert check_digests(folder)


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("name", ["numbers.bin", "words.json"])
def test_a_damaged_file_is_named(name: str, what: str, folder: Path) -> None:
    DAMAGE[what](folder / name)
    with pytest.raises(ValueError, match=f"{name} is (damaged|missing)"):
        check_digests(folder)


@pytest.mark.parametrize("byte", range(0, 100, 7))
def test_damaged_digests_are_damage(byte: int, folder: Path) -> None:
    content = bytearray((folder / DIGESTS).read_bytes())
    content[byte] ^= 0x10
    (folder / DIGESTS).write_bytes(content)
    with pytest.raises(ValueError, match=r"is (damaged|missing)"):
        check_digests(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"../words.json": "1"}', '{"/dev/zero": "1"}', '{"..": "1"}', "[" * 99999]
)
def test_digests_from_elsewhere_are_no_way_out_of_their_folder(content: str, folder: Path) -> None:
    (folder / DIGESTS).write_text(content)
    with pytest.raises(ValueError, match=r"is (damaged|missing)"):
        check_digests(folder)


def test_a_folder_without_digests_is_not_checked(folder: Path) -> None:
    assert json.loads((folder / DIGESTS).read_text()).keys() == {"numbers.bin", "words.json"}
    (folder / DIGESTS).unlink()
    assert not check_digests(folder)
