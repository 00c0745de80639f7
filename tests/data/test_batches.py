from __future__ import annotations

import pytest
import torch

from summarizer.data.batches import (
    IGNORED_LABEL,
    LEAST_TOKENS,
    SIZES_PER_DOUBLING,
    Batch,
    PaddingBuckets,
    collate,
    rounded_up,
)
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt

LONG = EncodedRow("long", list(range(100, 400)), [7, 8, 0])
SHORT = EncodedRow("short", [101, 102], [9, 0])
MIDDLE = EncodedRow("middle", list(range(200, 230)), [5, 6, 4, 0])


def ids_of(row: EncodedRow, prompt: Prompt) -> list[int]:
    return prompt.training_ids(row.article_ids, row.target_ids)[0]


def ends_of(batch: Batch) -> list[int]:
    assert batch.cu_seqlens is not None
    assert batch.attention_mask is None
    return batch.cu_seqlens.tolist()


def test_packed_examples_follow_one_another_without_padding(prompt: Prompt) -> None:
    batch = collate([[LONG, SHORT]], prompt, packed=True)
    long, short = ids_of(LONG, prompt), ids_of(SHORT, prompt)
    assert batch.input_ids.tolist() == [long + short]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[*range(len(long)), *range(len(short))]]
    assert ends_of(batch) == [0, len(long), len(long) + len(short)]


def test_packed_trials_are_padded_behind_their_last_example_alone(prompt: Prompt) -> None:
    batch = collate([[SHORT, SHORT], [MIDDLE, SHORT, SHORT]], prompt, packed=True)
    short, middle = ids_of(SHORT, prompt), ids_of(MIDDLE, prompt)
    t = batch.input_ids.shape[1]
    assert t == len(middle) + 2 * len(short)
    assert batch.input_ids[0].tolist() == short + short + [prompt.pad_id] * (t - 2 * len(short))
    ends = [0, len(short), 2 * len(short), t, t + len(middle), t + len(middle) + len(short)]
    assert ends_of(batch) == [*ends, 2 * t]


def test_padded_examples_are_masked_rows_of_their_own(prompt: Prompt) -> None:
    batch = collate([[LONG, SHORT], [SHORT, MIDDLE]], prompt, packed=False)
    long, short, middle = (ids_of(row, prompt) for row in (LONG, SHORT, MIDDLE))
    assert batch.position_ids is None
    assert batch.input_ids.shape == (4, prompt.max_tokens)
    for row, ids in enumerate((long, short, short, middle)):
        fill = prompt.max_tokens - len(ids)
        assert batch.input_ids[row].tolist() == ids + [prompt.pad_id] * fill
        assert batch.attention_mask[row].tolist() == [1] * len(ids) + [0] * fill


@pytest.mark.parametrize("packed", [True, False])
def test_each_summary_token_is_predicted_where_the_one_before_it_stands(
    prompt: Prompt, *, packed: bool
) -> None:
    trials = [[LONG, SHORT], [SHORT, MIDDLE], [MIDDLE, MIDDLE]]
    batch = collate(trials, prompt, packed=packed)
    tokens = batch.input_ids.reshape(len(trials), -1)
    for trial, rows in enumerate(trials):
        wanted = [token for row in rows for token in row.target_ids]
        own = batch.targets[trial] != IGNORED_LABEL
        assert batch.targets[trial, own].tolist() == wanted
        assert own.tolist() == [True] * len(wanted) + [False] * (8 - len(wanted))
        places = batch.positions[trial, own]
        assert tokens[trial, places + 1].tolist() == wanted
        first = len(rows[0].target_ids)
        assert tokens[trial, places[:first]].tolist() == [prompt.after[-1], *wanted[: first - 1]]


def predictions(batch: Batch, n: int) -> list[list[tuple[list[int], int]]]:
    """Of each trial what its loss is made of: the tokens that a prediction sees, and the token that it is to be."""
    per_trial = batch.input_ids.numel() // n
    ends = ends_of(batch) if batch.position_ids is not None else []
    found: list[list[tuple[list[int], int]]] = []
    for trial in range(n):
        found.append([])
        for place, target in zip(batch.positions[trial].tolist(), batch.targets[trial].tolist(), strict=True):
            if target == IGNORED_LABEL:
                continue
            at = trial * per_trial + place
            if batch.position_ids is not None:
                start = max(end for end in ends if end <= at)
                positions = batch.position_ids.flatten()[start : at + 1].tolist()
            else:
                start = at - at % batch.input_ids.shape[1]
                assert batch.attention_mask.flatten()[start : at + 1].all()
                positions = list(range(at + 1 - start))
            assert positions == list(range(at + 1 - start))
            found[-1].append((batch.input_ids.flatten()[start : at + 1].tolist(), target))
    return found


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("fewer", [[SHORT], []])
def test_a_trial_with_fewer_examples_predicts_what_it_does_alone(
    prompt: Prompt, fewer: list[EncodedRow], *, packed: bool
) -> None:
    trials = [[MIDDLE, SHORT], fewer, [SHORT, LONG, MIDDLE]]
    batch = collate(trials, prompt, packed=packed)
    examples = [[prompt.training_ids(row.article_ids, row.target_ids) for row in rows] for rows in trials]
    wanted = [
        [(ids[:end], ids[end]) for ids, before in own for end in range(before, len(ids))] for own in examples
    ]
    assert predictions(batch, 3) == wanted
    for rows, own in zip(trials, wanted, strict=True):
        if rows:
            assert predictions(collate([rows], prompt, packed=packed), 1) == [own]
    if packed:  # no example reaches from one trial into the next
        ends, t = ends_of(batch), batch.input_ids.shape[1]
        assert {0, t, 2 * t, 3 * t} <= set(ends)
        assert ends == sorted(set(ends))
    else:  # a row that may attend to nothing would come out as NaN
        assert batch.input_ids.shape[0] == 9
        assert batch.attention_mask.any(dim=1).all()


def numbers_of_examples(
    batch: Batch, trials: list[list[EncodedRow]], prompt: Prompt
) -> list[list[list[int]]]:
    """The token numbers of each trial's examples, padding left out."""
    found = []
    for rows, own in zip(trials, batch.token_numbers.reshape(len(trials), -1).tolist(), strict=True):
        lengths = [len(ids_of(row, prompt)) for row in rows]
        t = batch.input_ids.shape[1]
        starts = [sum(lengths[:k]) if batch.position_ids is not None else k * t for k in range(len(rows))]
        found.append([own[start : start + length] for start, length in zip(starts, lengths, strict=True)])
    return found


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "split",
    [
        [[[0], [0]], [[1, 2], [1]]],  # microbatches
        [[[0], [0]], [[1], [1]], [[2], []]],
        [[[0, 2], [0]], [[1], [1]]],  # processes
    ],
)
def test_tokens_are_numbered_alike_however_a_batch_is_split(
    prompt: Prompt, split: list[list[list[int]]], *, packed: bool
) -> None:
    trials = [[SHORT, LONG, MIDDLE], [MIDDLE, SHORT]]
    wanted = [
        [
            [number * prompt.max_tokens + position for position in range(len(ids_of(row, prompt)))]
            for number, row in enumerate(rows)
        ]
        for rows in trials
    ]
    assert numbers_of_examples(collate(trials, prompt, packed=packed), trials, prompt) == wanted
    for part in split:
        rows = [[own[k] for k in numbers] for own, numbers in zip(trials, part, strict=True)]
        batch = collate(rows, prompt, packed=packed, numbers=part)
        expected = [[own[k] for k in numbers] for own, numbers in zip(wanted, part, strict=True)]
        assert numbers_of_examples(batch, rows, prompt) == expected


@pytest.mark.parametrize("trials", [[], [[]], [[], []]])
def test_no_rows_make_no_batch(prompt: Prompt, trials: list[list[EncodedRow]]) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        collate(trials, prompt, packed=True)


@pytest.mark.parametrize("packed", [True, False])
def test_a_batch_moves_to_a_device_whole(prompt: Prompt, *, packed: bool) -> None:
    batch = collate([[SHORT]], prompt, packed=packed).to("meta")
    tensors = [value for value in vars(batch).values() if value is not None]
    assert len(tensors) == (6 if packed else 5)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.parametrize("packed", [True, False])
def test_with_buckets_only_padding_is_added_and_axes_have_few_lengths(
    prompt: Prompt, *, packed: bool
) -> None:
    trials = [[LONG, SHORT], [SHORT, MIDDLE]]
    buckets = PaddingBuckets(examples=3, tokens=prompt.max_tokens * (3 if packed else 1))
    plain, padded_more = (collate(trials, prompt, packed=packed, buckets=given) for given in (None, buckets))
    t = buckets.length(plain.input_ids.shape[1])
    assert padded_more.input_ids.shape == (len(plain.input_ids), t)
    assert (padded_more.input_ids[:, plain.input_ids.shape[1] :] == prompt.pad_id).all()
    torch.testing.assert_close(padded_more.input_ids[:, : plain.input_ids.shape[1]], plain.input_ids)
    assert padded_more.targets.shape == padded_more.positions.shape == (2, 16)
    assert predictions(padded_more, 2) == predictions(plain, 2)
    if packed:
        ends, own = ends_of(padded_more), ends_of(plain)
        assert len(ends) == 1 + 2 * (3 + 1)
        assert ends == sorted(ends)
        assert ends[-1] == 2 * t
        assert set(ends[: own.index(plain.input_ids.shape[1])]) <= set(own)
    else:
        assert padded_more.attention_mask.sum() == plain.attention_mask.sum()


def test_with_buckets_batches_of_one_size_have_one_shape(prompt: Prompt) -> None:
    """However many examples the step's parts hold, and whether a trial's row is padded or not."""
    buckets = PaddingBuckets(examples=3, tokens=3 * prompt.max_tokens)
    batches = [
        collate([rows], prompt, packed=True, buckets=buckets)
        for rows in ([SHORT], [SHORT, SHORT], [SHORT, SHORT, SHORT], [MIDDLE])
    ]
    assert len({(batch.input_ids.shape, batch.cu_seqlens.shape) for batch in batches}) == 1
    assert len({(batch.positions.shape, batch.targets.shape) for batch in batches}) == 1


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


def test_padding_stays_within_the_largest_where_the_row_does() -> None:
    buckets = PaddingBuckets(examples=2, tokens=150)
    assert [buckets.length(tokens) for tokens in (100, 129, 150)] == [128, 150, 150]
    assert buckets.length(151) == 151, "a row that is longer is left as it is"
