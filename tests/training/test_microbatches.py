from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from training_groups import build_group, spec_of

from summarizer.data.batches import PaddingBuckets
from summarizer.training import step
from summarizer.training.step import Microbatches

LENGTHS = [10, 30, 5, 5, 20]


def parts(limits: Microbatches, trials: int = 1) -> list[str]:
    return ["01234"[part] for part in limits.split([LENGTHS] * trials)]


@pytest.mark.parametrize(
    ("rows", "tokens", "expected"),
    [
        (None, None, ["01234"]),
        (2, None, ["01", "23", "4"]),
        (9, None, ["01234"]),
        (None, 40, ["01", "234"]),
        (None, 39, ["0", "12", "34"]),
        (None, 1, ["0", "1", "2", "3", "4"]),
        (2, 40, ["01", "23", "4"]),
    ],
)
def test_a_batch_is_split_in_order_within_both_limits(
    rows: int | None, tokens: int | None, expected: list[str]
) -> None:
    assert parts(Microbatches(rows, tokens)) == expected


def test_the_tokens_are_those_of_all_trials_and_the_longest_counts() -> None:
    assert parts(Microbatches(None, 80), trials=2) == ["01", "234"]
    longer = [[1, 1, 1], [50, 1, 1]]
    assert list(Microbatches(None, 102).split(longer)) == [slice(0, 2), slice(2, 3)]


def test_a_trial_with_fewer_examples_has_none_in_the_last_parts() -> None:
    split = list(Microbatches(1, None).split([[1, 1, 1], [1]]))
    assert [("abc"[part], "d"[part]) for part in split] == [("a", "d"), ("b", ""), ("c", "")]


@pytest.mark.parametrize(
    ("limits", "trials", "expected"),
    [
        (Microbatches(None, None, few_shapes=True), 1, PaddingBuckets(5, 500)),
        (Microbatches(2, None, few_shapes=True), 3, PaddingBuckets(2, 200)),
        (Microbatches(9, 300, few_shapes=True), 2, PaddingBuckets(5, 150)),
        (Microbatches(2, 300), 2, None),
    ],
)
def test_padding_never_goes_beyond_the_largest_pass(
    limits: Microbatches, trials: int, expected: PaddingBuckets | None
) -> None:
    assert limits.buckets(trials, 5, 100) == expected


def test_nothing_comes_of_a_process_s_empty_part() -> None:
    assert list(Microbatches(2, None).split([[], []])) == []


def test_halving_ends_at_one_example(caplog: pytest.LogCaptureFixture) -> None:
    limits = Microbatches(None, None)
    with caplog.at_level(logging.WARNING):
        assert limits.halve(5)
    assert limits.rows == 2
    assert "at most 2 examples of each trial per forward pass" in caplog.text
    assert limits.halve(5)
    assert limits.rows == 1
    assert not limits.halve(5)


def test_a_limit_of_tokens_is_halved_too(caplog: pytest.LogCaptureFixture) -> None:
    limits = Microbatches(None, 100)
    with caplog.at_level(logging.WARNING):
        assert limits.halve(5)
    assert limits == Microbatches(2, 50)
    assert "at most 2 examples of each trial and 50 tokens per forward pass" in caplog.text


def test_a_step_that_runs_out_of_memory_is_taken_in_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch, and so the gradient, stay what they are; what the failed pass had added is gone."""
    spec = spec_of("trainer.batch_size=4")
    expected, group = (build_group([spec], tmp_path / name) for name in ("whole", "halved"))
    rows = group.trials[0].next_batch()
    losses = step.backpropagate(expected, [rows])
    real, seen = step.summary_nll, []

    def scarce(model: object, batch: object) -> torch.Tensor:
        seen.append(batch.position_ids.eq(0).sum().item())  # type: ignore[attr-defined]
        # The whole batch does not fit; nor the second half of it, when the first has left its gradient.
        if seen[-1] > 2 or seen[1:] == [2, 2]:
            raise torch.OutOfMemoryError("no more")
        return real(model, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "summary_nll", scarce)
    torch.testing.assert_close(step.backpropagate(group, [rows]), losses, rtol=1e-5, atol=1e-6)
    assert seen == [4, 2, 2, 1, 1, 1, 1]
    for ours, theirs in zip(group.adapted.stacks(), expected.adapted.stacks(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_one_example_that_does_not_fit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = build_group([spec_of("trainer.microbatch_size=1")], tmp_path)

    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(step, "summary_nll", full)
    rows = group.trials[0].next_batch()
    with pytest.raises(torch.OutOfMemoryError):
        step.backpropagate(group, [rows])
