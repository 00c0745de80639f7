"""A group that is short of memory, stopped, or halved: what it trains is what each run would have got alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from grids import GRID, assert_as_alone, grid, job, numbers, train_one_by_one, watched_sizes

from summarizer.errors import StopRequested
from summarizer.evaluation import evaluator
from summarizer.generation.decoder import Decoder
from summarizer.runs import experiment
from summarizer.runs.callbacks import RunCallbacks
from summarizer.runs.experiment import run_group
from summarizer.runs.record import read_summary
from summarizer.training import step, trainer
from summarizer.training.step import Group


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_one_by_one(tmp_path_factory.mktemp("alone"))


# ---- memory ------------------------------------------------------------------------------------------------------


def running_out(monkeypatch: pytest.MonkeyPatch, fits: Callable[[Any], bool]) -> None:
    """A device on which only some batches fit."""
    real = step.summary_nll

    def scarce(model: Any, batch: Any) -> torch.Tensor:
        if model.blocks[0].training and not fits(batch):
            raise torch.OutOfMemoryError("no more")
        return real(model, batch)

    monkeypatch.setattr(step, "summary_nll", scarce)


@pytest.mark.slow
def test_a_group_that_does_not_fit_is_split_and_goes_on(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    sizes = watched_sizes(monkeypatch)
    running_out(monkeypatch, lambda batch: len(batch.targets) <= 2)
    assert_as_alone(run_group(grid(tmp_path)), one_by_one)
    assert sizes == [4, *[2] * 12]
    assert "from here on 2 train at once, the others wait" in caplog.text


@pytest.mark.slow
def test_one_that_does_not_even_fit_alone_fails_alone(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer.train_step

    def scarce(group: Group, batches: Any) -> Any:
        if any(trial.folder.name == "1" for trial in group.trials):
            raise torch.OutOfMemoryError("no more")
        return real(group, batches)

    monkeypatch.setattr(trainer, "train_step", scarce)
    ended = run_group(grid(tmp_path, trials=GRID[:3]))
    assert isinstance(ended[1].cause, torch.OutOfMemoryError)
    assert read_summary(tmp_path / "1").status == "failed"
    assert_as_alone([ended[0], ended[2]], one_by_one, [0, 2])


@pytest.mark.slow
def test_an_evaluation_that_does_not_fit_is_split(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    seen: list[tuple[int, int]] = []

    class Scarce(Decoder):
        def answers(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[list[int]]]]:
            seen.append((self.trials, min(self.batch_size, len(prompts))))
            if seen[-1][0] * seen[-1][1] > 2:
                raise torch.OutOfMemoryError("no more")
            return super().answers(prompts)

    monkeypatch.setattr(evaluator, "Decoder", Scarce)
    assert_as_alone(run_group(grid(tmp_path)), one_by_one)
    assert (4, 2) in seen
    assert (4, 1) in seen
    assert (2, 1) in seen


# ---- going on ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("steps", [pytest.param(3, marks=pytest.mark.slow), 4])
def test_a_stopped_group_goes_on_exactly(
    steps: int, tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of three waits when the signal comes, one has completed; what is complete stays as it is."""
    jobs = grid(tmp_path, "sweep.max_concurrent_trials=2", trials=GRID[:3])
    stopping(monkeypatch, steps)
    with pytest.raises(StopRequested):
        run_group(jobs)
    monkeypatch.undo()
    assert [read_summary(tmp_path / name).status for name in "01"] == ["stopped"] * 2
    assert not (tmp_path / "2" / "summary.json").exists()
    ended = run_group([one.model_copy(update={"resumed": True}) for one in jobs])
    assert_as_alone(ended, one_by_one, range(3))
    before = (tmp_path / "0" / "summary.json").read_bytes()
    again = run_group([one.model_copy(update={"resumed": True}) for one in jobs])
    assert [(run.status, run.best) for run in again] == [("completed", run.best) for run in ended]
    assert (tmp_path / "0" / "summary.json").read_bytes() == before


@pytest.mark.slow
def test_a_run_that_goes_on_is_no_longer_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = grid(tmp_path, "evaluation.base=false", trials=GRID[:1])
    stopping(monkeypatch, 2)
    with pytest.raises(StopRequested):
        run_group([one])
    monkeypatch.undo()
    assert read_summary(tmp_path / "0").status == "stopped"
    real, found = trainer.train_step, []

    def watching(group: Group, batches: Any) -> Any:
        found.append((tmp_path / "0" / "summary.json").exists())
        return real(group, batches)

    monkeypatch.setattr(trainer, "train_step", watching)
    run_group([one.model_copy(update={"resumed": True})])
    assert found == [False] * 4
    assert read_summary(tmp_path / "0").status == "completed"


def stopping(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """A signal after so many steps of the group."""
    real, stops = trainer.train_step, []
    real_fit = experiment.fit

    def fit(group: Group, callbacks: RunCallbacks, stop: Any, startup: Any) -> None:
        stops.append(stop)
        real_fit(group, callbacks, stop, startup)

    taken = 0

    def counting(group: Group, batches: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == steps:
            stops[0].number = 15
        return real(group, batches)

    monkeypatch.setattr(experiment, "fit", fit)
    monkeypatch.setattr(trainer, "train_step", counting)


# ---- successive halving ------------------------------------------------------------------------------------------

LADDER = tuple(
    ("adapter.dim=2", "optimizer=adamw", f"optimizer.lr={rate}", "seed=0")
    for rate in ("1e-6", "1e-2", "1e-5", "3e-3", "1e-4", "1e-3")
)
HALVING = (
    "sweep.stopping=successive_halving",
    "sweep.reduction_factor=3",
    "trainer.evaluate_every_steps=1",
    "trainer.epochs=1",
    "evaluation.rows_during_training=0",
    "evaluation.base=false",
)


@pytest.mark.slow
@pytest.mark.parametrize("places", [6, pytest.param(2, marks=pytest.mark.slow)])
def test_losers_are_stopped_and_the_rest_is_as_alone(
    places: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = watched_sizes(monkeypatch)
    jobs = grid(tmp_path / "sweep", *HALVING, f"sweep.max_concurrent_trials={places}", trials=LADDER)
    ended = run_group(jobs)
    assert all(run.cause is None for run in ended)
    summaries = [read_summary(Path(run.folder)) for run in ended]
    full = [number for number, summary in enumerate(summaries) if summary.status == "completed"]
    assert sum(sizes) == sum(summary.steps or 0 for summary in summaries)
    assert 1 <= len(full) < len(LADDER)
    for number, summary in enumerate(summaries):
        if number not in full:
            assert (summary.status, summary.ended_by, summary.rouge) == (
                "stopped",
                "successive_halving",
                None,
            )
            assert (tmp_path / "sweep" / str(number) / "adapter" / "adapter_model.safetensors").is_file()
            assert summary.steps == 1
    for number in full:
        (alone,) = run_group([job(tmp_path / "alone" / str(number), *LADDER[number], *HALVING)])
        expected = numbers(Path(alone.folder))
        for row, theirs in zip(numbers(tmp_path / "sweep" / str(number)), expected, strict=True):
            assert row == pytest.approx(theirs, rel=2e-4, abs=1e-6)
    # Of so many rates after one step, the highest is not always the best; the best at the rung is among the full.
    first = [numbers(Path(run.folder))[1]["val/loss"] for run in ended]
    assert first.index(min(first)) in full


@pytest.mark.slow
def test_a_halving_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    through = run_group(grid(tmp_path / "through", *HALVING, trials=LADDER))
    jobs = grid(tmp_path / "cut", *HALVING, trials=LADDER)
    stopping(monkeypatch, 2)
    with pytest.raises(StopRequested):
        run_group(jobs)
    monkeypatch.undo()
    ended = run_group([one.model_copy(update={"resumed": True}) for one in jobs])
    for ours, theirs in zip(ended, through, strict=True):
        assert read_summary(Path(ours.folder)).status == read_summary(Path(theirs.folder)).status
        assert ours.best is not None
        assert theirs.best is not None
        assert ours.best.value == pytest.approx(theirs.best.value, rel=1e-5)
        assert [row["step"] for row in numbers(Path(ours.folder))] == [
            row["step"] for row in numbers(Path(theirs.folder))
        ]


@pytest.mark.slow
def test_every_run_of_a_group_says_what_it_was(tmp_path: Path) -> None:
    run_group(grid(tmp_path, trials=GRID[:2]))
    for number in range(2):
        summary = json.loads((tmp_path / str(number) / "summary.json").read_text(encoding="utf-8"))
        assert summary["overrides"] == list(GRID[number])
        assert summary["startup_s"]
        assert summary["wall_s"] > 0
