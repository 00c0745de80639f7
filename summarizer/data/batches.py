"""The tensors that rows become: the examples of a group's trials, packed without padding where the model can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor

from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt
from summarizer.data.room import LEAST_PREDICTIONS, Room, rounded_up

IGNORED_LABEL = -100
"""torch.nn.functional.cross_entropy's default ignore_index."""


@dataclass(frozen=True)
class Batch:
    """Examples of `n` trials, ready for one forward pass.

    Packed, each trial is one row: its examples one after the other, and padding only behind the last, up to the
    length of the longest trial. Padded, each example is a row of its own, trial by trial.
    """

    input_ids: Int[Tensor, "rows t"]
    position_ids: Int[Tensor, "rows t"] | None
    """Packed: from 0 in each example. Padded: left to the model."""
    attention_mask: Int[Tensor, "rows t"] | Int[Tensor, "1 1 1 borders"]
    """Padded: 1 on an example's own tokens, 0 on padding. Packed: where examples begin and end among the tokens of
    all rows, first 0 and last rows * t; padding counts as an example, and some at the end may be empty."""
    positions: Int[Tensor, "n m"]
    """Where, among a trial's tokens, a token of a summary is predicted."""
    targets: Int[Tensor, "n m"]
    """The tokens to predict there; IGNORED_LABEL where a trial has fewer than the others, or than there is room."""
    token_numbers: Int[Tensor, "rows t"]
    """Of each token in its trial's batch of a step, however that is split."""

    def to(self, device: torch.device | str) -> Batch:
        on_device = {
            field.name: moved(value, torch.device(device))
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **on_device)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device; on a card the copy waits for nothing and nothing waits for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def collate(
    trials: Sequence[Sequence[EncodedRow]],
    prompt: Prompt,
    *,
    packed: bool,
    numbers: Sequence[Sequence[int]] | None = None,
    room: Room | None = None,
) -> Batch:
    """Prompt, cut and lay out the examples of each trial; one that has fewer than others is filled up with padding.

    numbers: of each example in its trial's batch of a step; by default they are the batch.  room: for batches of
    few shapes; where given, more padding makes all axes one of few lengths.
    Raises ValueError for no rows, or a target that leaves its article no room.
    """
    if not any(trials):
        raise ValueError("a batch needs at least one row")
    examples = [[prompt.training_ids(row.article_ids, row.target_ids) for row in rows] for rows in trials]
    numbers = numbers or [range(len(own)) for own in examples]
    if not packed:
        # A token that nothing is asked of: attention wants one to look at.
        most = max(map(len, examples))
        examples = [own + [([prompt.pad_id], 1)] * (most - len(own)) for own in examples]
        numbers = [[*own, *[0] * (most - len(own))] for own in numbers]
    numbered = [
        [(number, ids) for number, (ids, _) in zip(own_numbers, own, strict=True)]
        for own_numbers, own in zip(numbers, examples, strict=True)
    ]
    rows = numbered if packed else [[example] for own in numbered for example in own]
    t = max(sum(len(ids) for _, ids in row) for row in rows)
    if room is not None:
        t = room.length(t)
    input_ids = torch.full((len(rows), t), prompt.pad_id)
    position_ids, token_numbers, mask = (torch.zeros_like(input_ids) for _ in range(3))
    borders = [0]
    for index, row in enumerate(rows):
        ends = list(accumulate((len(ids) for _, ids in row), initial=0))
        for (number, ids), start, end in zip(row, ends, ends[1:], strict=False):
            input_ids[index, start:end] = torch.tensor(ids)
            position_ids[index, start:end] = torch.arange(len(ids))
            token_numbers[index, start:end] = number * prompt.max_tokens + position_ids[index, start:end]
        mask[index, : ends[-1]] = 1
        borders += [index * t + end for end in ends[1:]]
        if ends[-1] < t:
            borders.append((index + 1) * t)
    if room is not None:
        borders += [len(rows) * t] * (1 + len(rows) * (room.examples + 1) - len(borders))
    positions, targets = _predictions(examples, t, packed=packed, few_lengths=room is not None)
    if not packed:
        return Batch(input_ids, None, mask, positions, targets, token_numbers)
    as_mask = torch.tensor(borders, dtype=torch.int32).reshape(1, 1, 1, -1)
    return Batch(input_ids, position_ids, as_mask, positions, targets, token_numbers)


def _predictions(
    examples: Sequence[Sequence[tuple[list[int], int]]], t: int, *, packed: bool, few_lengths: bool
) -> tuple[Int[Tensor, "n m"], Int[Tensor, "n m"]]:
    """Where each trial predicts which token; both filled up to the most of a trial, or to one of few lengths."""
    positions: list[list[int]] = []
    targets: list[list[int]] = []
    for own in examples:
        lengths = [len(ids) for ids, _ in own]
        starts = [0, *accumulate(lengths if packed else [t] * len(own))]
        positions.append(
            [
                start + place - 1
                for start, (ids, prompt_tokens) in zip(starts, own, strict=False)
                for place in range(prompt_tokens, len(ids))
            ]
        )
        targets.append([token for ids, prompt_tokens in own for token in ids[prompt_tokens:]])
    most = max(map(len, targets))
    if few_lengths:
        most = rounded_up(most, LEAST_PREDICTIONS)
    return (
        torch.tensor([own + [0] * (most - len(own)) for own in positions]),
        torch.tensor([own + [IGNORED_LABEL] * (most - len(own)) for own in targets]),
    )
