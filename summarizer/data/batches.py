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
    all rows, first 0 and last rows * t; padding counts as an example."""
    positions: Int[Tensor, "n m"]
    """Where, among a trial's tokens, a token of a summary is predicted."""
    targets: Int[Tensor, "n m"]
    """The tokens to predict there; IGNORED_LABEL where a trial has fewer than the others."""

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


def collate(trials: Sequence[Sequence[EncodedRow]], prompt: Prompt, *, packed: bool) -> Batch:
    """Prompt, cut and lay out the examples of each trial.

    Raises ValueError for no rows, a target that leaves its article no room, or, padded, unequal numbers of rows.
    """
    if not trials or not all(trials):
        raise ValueError("a batch needs at least one row")
    examples = [[prompt.training_ids(row.article_ids, row.target_ids) for row in rows] for rows in trials]
    if not packed and len({len(rows) for rows in trials}) > 1:
        raise ValueError("padded trials need equal numbers of rows")
    rows = (
        [[ids for ids, _ in own] for own in examples]
        if packed
        else [[ids] for own in examples for ids, _ in own]
    )
    t = max(sum(map(len, row)) for row in rows)
    input_ids = torch.full((len(rows), t), prompt.pad_id)
    position_ids = torch.zeros_like(input_ids)
    mask = torch.zeros_like(input_ids)
    borders = [0]
    for index, row in enumerate(rows):
        ends = list(accumulate(map(len, row)))
        for ids, end in zip(row, ends, strict=True):
            input_ids[index, end - len(ids) : end] = torch.tensor(ids)
            position_ids[index, end - len(ids) : end] = torch.arange(len(ids))
        mask[index, : ends[-1]] = 1
        borders += [index * t + end for end in ends]
        if ends[-1] < t:
            borders.append((index + 1) * t)
    positions, targets = _predictions(examples, t, packed=packed)
    if not packed:
        return Batch(input_ids, None, mask, positions, targets)
    return Batch(
        input_ids,
        position_ids,
        torch.tensor(borders, dtype=torch.int32).reshape(1, 1, 1, -1),
        positions,
        targets,
    )


def _predictions(
    examples: Sequence[Sequence[tuple[list[int], int]]], t: int, *, packed: bool
) -> tuple[Int[Tensor, "n m"], Int[Tensor, "n m"]]:
    """Where each trial predicts which token; both filled up to the trial with the most."""
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
    return (
        torch.tensor([own + [0] * (most - len(own)) for own in positions]),
        torch.tensor([own + [IGNORED_LABEL] * (most - len(own)) for own in targets]),
    )
