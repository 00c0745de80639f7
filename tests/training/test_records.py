from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_groups import build_group, spec_of

from summarizer.errors import NonFiniteLossError
from summarizer.tracking.utilization import devices_rate
from summarizer.training import trainer
from summarizer.training.step import Group
from summarizer.training.trainer import StepMeasurement, StepRecords, TrialStep

UNRECOVERABLE = 7
"""The step whose gradients no scale helps."""


class Landing:
    """A GPU's event: that it was waited for."""

    def __init__(self) -> None:
        self.waited = False

    def synchronize(self) -> None:
        self.waited = True


def measured(group: Group, step: int, loss: float = 2.0, arrived: Landing | None = None) -> StepMeasurement:
    numbers = torch.tensor([[loss], [1.0]])
    taken = TrialStep(
        trial=group.trials[0],
        number=step,
        rate=1e-4,
        tokens=50,
        flops=10**9,
        row_ids=["a", "b"],
        error=None,
        scaling={"train/loss_scale": 2.0**-step},
        unrecoverable=step == UNRECOVERABLE,
    )
    return StepMeasurement([taken], numbers, arrived)


def nobody(losses: object, tokens_per_s: float) -> None:
    """Listens."""


@pytest.fixture
def group(tmp_path: Path) -> Group:
    group = build_group([spec_of()], tmp_path)
    devices_rate(group.processes)  # measured ahead of the tests' clocks
    return group


def test_the_time_of_compiling_is_no_part_of_a_rate(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, compiled = iter([100.0, 106.0, 107.0]), iter([3.0, 8.0, 8.0])
    monkeypatch.setattr(trainer, "compile_s", lambda: next(compiled))
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: next(clock))
    kept = StepRecords(group, nobody)
    kept.resume_clock()
    kept.add(measured(group, 1))
    assert group.trials[0].state.train_s == pytest.approx(1.0)
    kept.add(measured(group, 2))
    assert group.trials[0].state.train_s == pytest.approx(2.0)
    assert group.trials[0].state.tokens == 100


def test_on_a_gpu_a_step_s_time_begins_where_the_one_before_was_read(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 103.0])
    monkeypatch.setattr(trainer, "compile_s", lambda: 0.0)
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: next(clock))
    kept = StepRecords(group, nobody)
    kept.resume_clock()
    kept.add(measured(group, 1, arrived=Landing()))
    kept.resume_clock()  # the first step is still on its way: its time goes on
    kept.add(measured(group, 2, arrived=Landing()))
    assert group.trials[0].state.train_s == pytest.approx(3.0)


def test_on_a_gpu_a_step_is_read_when_the_next_is_under_way(group: Group) -> None:
    first, second = Landing(), Landing()
    kept = StepRecords(group, nobody)
    kept.resume_clock()
    kept.add(measured(group, 1, arrived=first))
    assert not first.waited
    assert group.trials[0].state.last_loss is None
    kept.add(measured(group, 2, loss=1.5, arrived=second))
    assert first.waited
    assert not second.waited
    assert group.trials[0].state.last_loss == 2.0
    kept.catch_up()
    assert second.waited
    assert group.trials[0].state.last_loss == 1.5


def test_a_loss_that_is_not_finite_is_named_with_its_own_step(group: Group) -> None:
    (trial,) = group.trials
    kept = StepRecords(group, nobody)
    kept.resume_clock()
    kept.add(measured(group, 1, loss=float("nan"), arrived=Landing()))
    kept.add(measured(group, 2, arrived=Landing()))
    kept.catch_up()
    assert isinstance(kept.failed[trial], NonFiniteLossError)
    assert "step 1 on rows a, b" in str(kept.failed[trial])
    assert trial.state.last_loss is None, "and nothing of it is recorded any further"


def test_the_scale_of_a_loss_is_recorded_with_its_own_step(group: Group) -> None:
    (trial,) = group.trials
    seen: list[tuple[int, float]] = []
    kept = StepRecords(group, nobody)
    kept.record = lambda _, values, step: seen.append((step, values["train/loss_scale"]))  # type: ignore[method-assign]
    kept.resume_clock()
    every = trial.spec.trainer.log_every_steps
    for step in (every, 2 * every):
        kept.add(measured(group, step, arrived=Landing()))
    kept.catch_up()
    assert seen == [(every, 2.0**-every), (2 * every, 2.0 ** (-2 * every))]


def test_gradients_that_no_scale_helps_are_named_with_their_own_step(group: Group) -> None:
    (trial,) = group.trials
    kept = StepRecords(group, nobody)
    kept.resume_clock()
    for step in (UNRECOVERABLE - 1, UNRECOVERABLE, UNRECOVERABLE + 1):
        kept.add(measured(group, step, arrived=Landing()))
    kept.catch_up()
    assert f"the gradients of step {UNRECOVERABLE} are not finite in fp16" in str(kept.failed[trial])
