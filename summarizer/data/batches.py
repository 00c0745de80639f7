"""The tensors that rows become: the examples of a group's trials, packed without padding where the model can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate

import torch
from jaxtyping import Int, Int32
from torch import Tensor

from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt

IGNORED_LABEL = -100
"""torch.nn.functional.cross_entropy's default ignore_index."""
SIZES_PER_DOUBLING = 8
"""So at most an eighth is added. Batches of 2 rows of cnn_dailymail of up to 1,024 tokens have 386 shapes in an
epoch of 529 steps; padded so they have 17, and 3.5 % more tokens; with 4 sizes for each doubling 9, and 7.4 % more
(experiments/training_throughput/shapes.py)."""
LEAST_TOKENS = 64
"""Between two sizes: half the tile that a GPU's kernels multiply at once, so that less would save nothing."""
LEAST_PREDICTIONS = 16
"""The same of the few tokens that the head sees: the edge of the smallest tile of a tensor core."""


@dataclass(frozen=True)
class PaddingBuckets:
    """Few shapes for many batches: what is recorded once for each shape should be recorded seldom."""

    examples: int
    """Most examples of a trial in one forward pass."""
    tokens: int
    """Most tokens of a trial in one forward pass."""

    def length(self, tokens: int) -> int:
        """What to fill up a row of that many tokens to; not beyond the largest, where the row itself is not."""
        return max(min(rounded_up(tokens, LEAST_TOKENS), self.tokens), tokens)


def rounded_up(count: int, least: int) -> int:
    """The next of a few sizes: `least` apart, and further on SIZES_PER_DOUBLING of them for each doubling."""
    doubling = 1 << max(count - 1, 0).bit_length()
    step = max(doubling // (2 * SIZES_PER_DOUBLING), least)
    return -(-count // step) * step


@dataclass(frozen=True)
class Batch:
    """Examples of `n` trials, ready for one forward pass.

    Packed, each trial is one row: its examples one after the other, and padding only behind the last, up to the
    length of the longest trial. Padded, each example is a row of its own, trial by trial.
    """

    input_ids: Int[Tensor, "rows t"]
    position_ids: Int[Tensor, "rows t"] | None
    """Packed: from 0 in each example. Padded: left to the model."""
    attention_mask: Int[Tensor, "rows t"] | None
    """Padded: 1 on an example's own tokens, 0 on padding. Packed: None."""
    cu_seqlens: Int32[Tensor, " ends"] | None
    """Packed: where each example begins among the tokens of all rows, first 0, and where the last ends:
    rows * t. Padding counts as an example, and some at the end may be empty. Padded: None."""
    positions: Int[Tensor, "n m"]
    """Where, among a trial's tokens, a token of a summary is predicted."""
    targets: Int[Tensor, "n m"]
    """The tokens to predict there; IGNORED_LABEL behind a trial's last one."""
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
    """A host tensor on the device; on a GPU the copy waits for nothing and nothing waits for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def collate(
    trials: Sequence[Sequence[EncodedRow]],
    prompt: Prompt,
    *,
    packed: bool,
    numbers: Sequence[Sequence[int]] | None = None,
    buckets: PaddingBuckets | None = None,
) -> Batch:
    """Prompt, cut and lay out the examples of each trial; one that has fewer than others is filled up with padding.

    numbers: of each example in its trial's batch of a step; by default they are the batch.  buckets: for batches of
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
    if buckets is not None:
        t = buckets.length(t)
    input_ids = torch.full((len(rows), t), prompt.pad_id)
    position_ids, token_numbers, mask = (torch.zeros_like(input_ids) for _ in range(3))
    ends_of_examples = [0]
    for index, row in enumerate(rows):
        ends = list(accumulate((len(ids) for _, ids in row), initial=0))
        for (number, ids), start, end in zip(row, ends, ends[1:], strict=False):
            input_ids[index, start:end] = torch.tensor(ids)
            position_ids[index, start:end] = torch.arange(len(ids))
            token_numbers[index, start:end] = number * prompt.max_tokens + position_ids[index, start:end]
        mask[index, : ends[-1]] = 1
        ends_of_examples += [index * t + end for end in ends[1:]]
        if ends[-1] < t:
            ends_of_examples.append((index + 1) * t)
    if buckets is not None:
        ends_of_examples += [len(rows) * t] * (1 + len(rows) * (buckets.examples + 1) - len(ends_of_examples))
    positions, targets = _predictions(examples, t, packed=packed, few_lengths=buckets is not None)
    if not packed:
        return Batch(input_ids, None, mask, None, positions, targets, token_numbers)
    cu_seqlens = torch.tensor(ends_of_examples, dtype=torch.int32)
    return Batch(input_ids, position_ids, None, cu_seqlens, positions, targets, token_numbers)


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
