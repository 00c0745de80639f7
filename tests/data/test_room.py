from __future__ import annotations

import pytest

from summarizer.data.room import LEAST_TOKENS, SIZES_PER_DOUBLING, Room, rounded_up


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, 64),
        (64, 64),
        (65, 128),
        (512, 512),
        (513, 576),
        (1024, 1024),
        (1025, 1152),
        (2048, 2048),
        (2049, 2304),
    ],
)
def test_sizes_known_by_hand(count: int, expected: int) -> None:
    assert rounded_up(count, 64) == expected


def test_sizes_are_few_and_add_little() -> None:
    counts = range(1, 4097)
    sizes = [rounded_up(count, LEAST_TOKENS) for count in counts]
    assert sizes == sorted(sizes)
    assert all(count <= size for count, size in zip(counts, sizes, strict=True))
    assert all(rounded_up(size, LEAST_TOKENS) == size for size in sizes)
    added = [(size - count) / count for count, size in zip(counts, sizes, strict=True) if count > 512]
    assert max(added) < 1 / SIZES_PER_DOUBLING
    assert len({size for size in sizes if 1024 < size <= 2048}) == SIZES_PER_DOUBLING


def test_padding_stays_within_the_room_where_the_row_does() -> None:
    room = Room(examples=2, tokens=150)
    assert [room.length(tokens) for tokens in (100, 129, 150)] == [128, 150, 150]
    assert room.length(151) == 151, "a row that is longer is left as it is"
