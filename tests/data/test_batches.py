from __future__ import annotations

import random

import pytest
import torch
from torch.nn import functional as F

from summarizer.data.batches import EncodedRow, collate, epoch_batches, permutation, random_stream
from summarizer.data.prompt import Prompt

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
    neighbours = torch.corrcoef(torch.stack([means[:-1], means[1:]]))[0, 1]
    assert abs(neighbours) < 0.2


def test_collate_pads_masks_and_labels(prompt: Prompt) -> None:
    rows = [
        EncodedRow("long", list(range(100, 400)), [7, 8, prompt.end_id]),
        EncodedRow("short", [101, 102], [9, prompt.end_id]),
    ]
    batch = collate(rows, prompt)
    assert batch.input_ids.shape == (2, prompt.max_tokens)
    assert batch.row_ids == ["long", "short"]
    assert batch.targets == [3, 2]
    short = [*prompt.before, 101, 102, *prompt.after, 9, prompt.end_id]
    assert batch.tokens == [prompt.max_tokens, len(short)]
    assert batch.input_ids[1].tolist() == short + [prompt.pad_id] * (128 - len(short))
    assert batch.attention_mask[1].tolist() == [1] * len(short) + [0] * (128 - len(short))
    assert batch.labels[1].tolist() == [-100] * (len(short) - 2) + [9, prompt.end_id] + [-100] * (
        128 - len(short)
    )
    assert batch.labels[0, -3:].tolist() == [7, 8, prompt.end_id]
    assert (batch.labels[0, :-3] == -100).all()


def test_the_loss_over_its_labels_is_the_loss_over_each_summary(prompt: Prompt) -> None:
    torch.manual_seed(0)
    rows = [EncodedRow("a", [11, 12, 13], [4, 5, 0]), EncodedRow("b", [14], [6, 0])]
    batch = collate(rows, prompt)
    logits = torch.randn(*batch.input_ids.shape, 8192)
    ours = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), reduction="sum")
    slow = 0.0
    for index, row in enumerate(rows):
        ids = [*prompt.before, *row.article_ids, *prompt.after, *row.target_ids]
        for place in range(len(ids) - len(row.target_ids), len(ids)):
            slow -= logits[index, place - 1].log_softmax(-1)[ids[place]].item()
    assert ours.item() == pytest.approx(slow, rel=1e-5)


def test_no_rows_make_no_batch(prompt: Prompt) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        collate([], prompt)


def test_a_batch_moves_to_a_device_whole(prompt: Prompt) -> None:
    batch = collate([EncodedRow("a", [11], [4, 0])], prompt).to("meta")
    assert {batch.input_ids.device.type, batch.attention_mask.device.type, batch.labels.device.type} == {
        "meta"
    }
