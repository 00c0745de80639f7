from __future__ import annotations

import random

import pytest
import torch

from summarizer.data.order import epoch_batches, permutation, random_stream

LENGTHS = random.Random(0).choices(range(20, 1024), k=1003)


def padding(batches: list[list[int]]) -> int:
    return sum(max(LENGTHS[row] for row in batch) - LENGTHS[other] for batch in batches for other in batch)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("group_by_length", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 1003, 2000])
def test_every_row_once_and_only_the_last_batch_smaller(
    shuffle: bool, group_by_length: bool, batch_size: int
) -> None:
    batches = epoch_batches(LENGTHS, 1, 2, batch_size, shuffle=shuffle, group_by_length=group_by_length)
    assert sorted(row for batch in batches for row in batch) == list(range(1003))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 0 < len(batches[-1]) <= batch_size


def test_order_without_shuffling() -> None:
    assert epoch_batches([1] * 5, 9, 9, 2, shuffle=False, group_by_length=False) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("group_by_length", [False, True])
def test_a_pure_function_of_seed_and_epoch(group_by_length: bool) -> None:
    def batches(seed: int, epoch: int) -> list[list[int]]:
        return epoch_batches(LENGTHS, seed, epoch, 4, shuffle=True, group_by_length=group_by_length)

    first = batches(3, 1)
    torch.manual_seed(7)
    assert batches(3, 1) == first
    others = [batches(3, 0), batches(1, 3), batches(3, 2), batches(4, 1), batches(0, 0)]
    assert all(other != first for other in others)


def test_the_order_is_the_same_on_every_machine() -> None:
    # Written down on the machine that first ran this: a resumed run may meet another numpy.
    assert permutation(8, random_stream(0, 0)) == [6, 4, 7, 0, 5, 2, 1, 3]


def test_grouping_saves_padding_and_keeps_the_order_of_lengths_random() -> None:
    plain = epoch_batches(LENGTHS, 0, 0, 4, shuffle=True, group_by_length=False)
    grouped = epoch_batches(LENGTHS, 0, 0, 4, shuffle=True, group_by_length=True)
    assert padding(grouped) < padding(plain) / 10
    means = torch.tensor([sum(LENGTHS[row] for row in batch) / 4 for batch in grouped[:-1]])
    neighbors = torch.corrcoef(torch.stack([means[:-1], means[1:]]))[0, 1]
    assert abs(neighbors) < 0.2
