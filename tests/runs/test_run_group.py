"""Runs that train as a group, against the same runs one by one: every number and tensor, whatever comes between."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from config.composing import composed
from safetensors.torch import load_file
from small_runs import TINY

from summarizer.config.check import to_plain
from summarizer.errors import NonFiniteLossError, StopRequested
from summarizer.runs import experiment
from summarizer.runs.ended import Ended
from summarizer.runs.experiment import run_group
from summarizer.runs.group_runs import GroupRuns
from summarizer.runs.job import Job
from summarizer.tracking.metrics import read_metrics
from summarizer.tracking.summary import read_summary
from summarizer.training import loop, step
from summarizer.training.group import Group

GRID = (
    ("adapter.dim=2", "optimizer=adamw", "optimizer.lr=1e-3", "seed=0"),
    ("adapter.dim=4", "optimizer=adamw", "optimizer.lr=3e-3", "seed=1"),
    ("adapter.dim=16", "optimizer=sgd", "optimizer.lr=1e-1", "seed=0"),
    ("adapter.dim=2", "optimizer=adam8bit", "optimizer.lr=3e-3", "seed=1", "trainer.schedule.name=linear"),
)
COMMON = (
    *TINY,
    "trainer.batch_size=3",
    "trainer.epochs=2",
    "trainer.microbatch_size=2",
    "trainer.max_grad_norm=0.5",
    "trainer.schedule.warmup_steps=2",
    "trainer.evaluate_every_steps=2",
    "trainer.checkpoint_every_steps=1",
    "evaluation.rows=2",
)
TIMES = ("train/tokens_per_s", "train/mfu", "train/memory_bytes")


def job(folder: Path, *overrides: str) -> Job:
    return Job(to_plain(composed(*COMMON, *overrides)), str(folder), overrides, sweep=folder.parent.name)


def grid(folder: Path, *more: str, trials: Sequence[tuple[str, ...]] = GRID) -> list[Job]:
    return [job(folder / str(number), *overrides, *more) for number, overrides in enumerate(trials)]


def numbers(folder: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in read_metrics(folder / "metrics.jsonl")
    ]


def assert_same_run(ours: Path, alone: Path) -> None:
    for row, expected in zip(numbers(ours), numbers(alone), strict=True):
        assert row == pytest.approx(expected, rel=2e-4, abs=1e-6)
    tensors, expected_tensors = (
        load_file(f / "adapter" / "adapter_model.safetensors") for f in (ours, alone)
    )
    assert tensors.keys() == expected_tensors.keys()
    for name, tensor in tensors.items():
        assert tensor.shape == expected_tensors[name].shape
        # Adam divides by the gradient's size: rounding in one near zero moves a value by up to its rate.
        assert (tensor - expected_tensors[name]).abs().mean() < 2e-4, name
    for file in ("validation.jsonl", "validation.base.jsonl"):
        assert (ours / "predictions" / file).read_bytes() == (alone / "predictions" / file).read_bytes()
    summary, expected_summary = read_summary(ours), read_summary(alone)
    assert summary.rouge == expected_summary.rouge
    assert summary.val_loss == pytest.approx(expected_summary.val_loss, rel=1e-4)
    same = ("status", "ended_by", "steps", "best_step", "epochs", "tokens", "trainable_parameters", "rows")
    assert [getattr(summary, name) for name in same] == [getattr(expected_summary, name) for name in same]


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid's folders, each trained by itself."""
    folder = tmp_path_factory.mktemp("alone")
    for alone in grid(folder):
        (ended,) = run_group([alone])
        assert ended.error is None
    return folder


def assert_as_alone(
    ended: Sequence[Ended], one_by_one: Path, numbers: Sequence[int] = range(len(GRID))
) -> None:
    assert [run.error for run in ended] == [None] * len(ended)
    for run, number in zip(ended, numbers, strict=True):
        assert_same_run(Path(run.folder), one_by_one / str(number))


def test_a_mixed_grid_trains_as_each_of_it_alone(tmp_path: Path, one_by_one: Path) -> None:
    ended = run_group(grid(tmp_path))
    assert_as_alone(ended, one_by_one)
    for run in ended:
        evaluations = [
            row["val/loss"]
            for row in read_metrics(Path(run.folder) / "metrics.jsonl")
            if row["step"] and "val/loss" in row
        ]
        assert run.value == min(evaluations)


@pytest.mark.slow
def test_with_fewer_places_runs_wait_for_them(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes later trains beside others that are further: their last batches are of different sizes."""
    sizes = watched_sizes(monkeypatch)
    assert_as_alone(run_group(grid(tmp_path, "sweep.places=3")), one_by_one)
    assert sizes == [3] * 6 + [1] * 6


def watched_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many trials took each step."""
    sizes: list[int] = []
    real = loop.train_step

    def watching(group: Group, batches: Any) -> Any:
        sizes.append(len(group.trials))
        return real(group, batches)

    monkeypatch.setattr(loop, "train_step", watching)
    return sizes


@pytest.mark.slow
def test_dropout_draws_the_same_in_a_group(tmp_path: Path) -> None:
    """Whatever the group's microbatches are, too."""
    dropping = ("adapter.dropout=0.3", "trainer.batch_tokens=200")
    trials = [GRID[0], (*GRID[1], "adapter.dropout=0.0")]
    for alone in grid(tmp_path / "alone", *dropping, trials=trials):
        run_group([alone])
    ended = run_group(grid(tmp_path / "together", *dropping, trials=trials))
    for run in ended:
        assert_same_run(Path(run.folder), tmp_path / "alone" / Path(run.folder).name)
    plain = run_group(grid(tmp_path / "plain", trials=trials[:1]))
    assert numbers(Path(plain[0].folder))[2] != pytest.approx(numbers(tmp_path / "together" / "0")[2])


# ---- trials are isolated -----------------------------------------------------------------------------------------


def test_one_that_diverges_leaves_and_the_others_are_as_alone(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = watched_sizes(monkeypatch)
    bad = ("adapter.dim=4", "optimizer=adamw", "optimizer.lr=1e30")
    jobs = grid(tmp_path, trials=[GRID[0], bad, GRID[1]])
    ended = run_group(jobs)
    assert isinstance(ended[1].error, NonFiniteLossError)
    assert ended[1].value is None
    summary = read_summary(tmp_path / "1")
    assert (summary.status, summary.ended_by) == ("failed", "error")
    assert "the loss is nan at step" in str(summary.error)
    assert not (tmp_path / "1" / "adapter").exists()
    assert_as_alone([ended[0], ended[2]], one_by_one, [0, 1])
    assert sizes == [3, 3, 2, 2, 2, 2]


@pytest.mark.slow
def test_a_neighbour_s_end_does_not_change_a_bit_while_shapes_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial beside one that diverges, up to the step at which that leaves, against one beside a healthy one."""
    rates = {"healthy": "1e-3", "diverging": "1e20"}
    for name, rate in rates.items():
        run_group(
            grid(
                tmp_path / name, trials=[GRID[0], ("adapter.dim=4", "optimizer=sgd", f"optimizer.lr={rate}")]
            )
        )
    left_at = max(row["step"] for row in read_metrics(tmp_path / "diverging" / "1" / "metrics.jsonl"))
    ours, expected = (
        [row for row in numbers(tmp_path / name / "0") if row["step"] <= left_at + 1] for name in rates
    )
    assert left_at >= 1
    assert ours == expected


@pytest.mark.slow
def test_one_that_cannot_be_saved_leaves(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.save_checkpoint

    def full(trial: Any) -> Any:
        if trial.folder.name == "0" and trial.reached.step == 3:
            raise OSError(28, "No space left on device", str(trial.folder))
        return real(trial)

    monkeypatch.setattr(loop, "save_checkpoint", full)
    ended = run_group(grid(tmp_path, trials=GRID[:2]))
    assert isinstance(ended[0].error, OSError)
    assert read_summary(tmp_path / "0").status == "failed"
    assert_as_alone([ended[1]], one_by_one, [1])


@pytest.mark.slow
def test_one_whose_metrics_cannot_be_written_leaves(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from summarizer.tracking.metrics import MetricsFile

    real = MetricsFile.log

    def full(self: Any, record: Any) -> None:
        if self._path.parent.name == "0" and record["step"] == 2 and "val/loss" in record:
            raise OSError(28, "No space left on device", str(self._path))
        real(self, record)

    monkeypatch.setattr(MetricsFile, "log", full)
    ended = run_group(grid(tmp_path, trials=GRID[:2]))
    assert isinstance(ended[0].error, OSError)
    assert_as_alone([ended[1]], one_by_one, [1])


@pytest.mark.slow
def test_one_whose_optimizer_fails_leaves(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = step.Trial.take_step

    def failing(trial: Any, *, skip: bool) -> None:
        if trial.folder.name == "1" and trial.reached.step == 2:
            raise RuntimeError("no such kernel")
        real(trial, skip=skip)

    monkeypatch.setattr(step.Trial, "take_step", failing)
    ended = run_group(grid(tmp_path, trials=GRID[:2]))
    assert str(ended[1].error) == "no such kernel"
    assert max(row["step"] for row in read_metrics(tmp_path / "1" / "metrics.jsonl")) == 2
    assert_as_alone([ended[0]], one_by_one, [0])


@pytest.mark.slow
def test_those_that_cannot_begin_do_not_keep_others_from_it(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two are offered all the places there are."""
    real = GroupRuns._trial

    def refusing(self: Any, outcome: Any, place: int) -> Any:
        if outcome.spec.adapter.dim == 3:
            raise RuntimeError("wandb cannot be opened")
        return real(self, outcome, place)

    monkeypatch.setattr(GroupRuns, "_trial", refusing)
    bad = ("adapter.dim=3",)
    ended = run_group(grid(tmp_path, "sweep.places=2", trials=[bad, (*bad, "seed=1"), GRID[0]]))
    assert [str(run.error) for run in ended[:2]] == ["wandb cannot be opened"] * 2
    assert_as_alone([ended[2]], one_by_one, [0])


def test_what_fails_before_training_fails_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("the base is broken")

    monkeypatch.setattr(experiment, "load_base", broken)
    ended = run_group(grid(tmp_path, trials=GRID[:2]))
    assert [str(run.error) for run in ended] == ["the base is broken"] * 2
    assert [read_summary(tmp_path / str(number)).status for number in range(2)] == ["failed"] * 2


# ---- memory ------------------------------------------------------------------------------------------------------


def running_out(monkeypatch: pytest.MonkeyPatch, fits: Callable[[Any], bool]) -> None:
    """A device on which only some batches fit."""
    real = step.summary_nll

    def scarce(model: Any, batch: Any) -> torch.Tensor:
        if model.training and not fits(batch):
            raise torch.OutOfMemoryError("no more")
        return real(model, batch)

    monkeypatch.setattr(step, "summary_nll", scarce)


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
def test_an_evaluation_that_does_not_fit_is_split(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from summarizer.evaluation import evaluate

    seen: list[tuple[int, int]] = []
    for name, count in (("generate", lambda model, prompts, spec, trials, **_: (trials, len(prompts))),):
        real = getattr(evaluate, name)

        def scarce(*arguments: Any, real: Any = real, count: Any = count, **more: Any) -> Any:
            seen.append(count(*arguments, **more))
            if seen[-1][0] * seen[-1][1] > 2:
                raise torch.OutOfMemoryError("no more")
            return real(*arguments, **more)

        monkeypatch.setattr(evaluate, name, scarce)
    assert_as_alone(run_group(grid(tmp_path)), one_by_one)
    assert (4, 2) in seen
    assert (4, 1) in seen
    assert (2, 1) in seen


# ---- going on ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [pytest.param(3, marks=pytest.mark.slow), 4])
def test_a_stopped_group_goes_on_exactly(
    steps: int, tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of three waits when the signal comes, one has completed; what is complete stays as it is."""
    jobs = grid(tmp_path, "sweep.places=2", trials=GRID[:3])
    stopping(monkeypatch, steps)
    with pytest.raises(StopRequested):
        run_group(jobs)
    monkeypatch.undo()
    assert [read_summary(tmp_path / name).status for name in "01"] == ["stopped"] * 2
    assert not (tmp_path / "2" / "summary.json").exists()
    ended = run_group([replace(one, resumed=True) for one in jobs])
    assert_as_alone(ended, one_by_one, range(3))
    before = (tmp_path / "0" / "summary.json").read_bytes()
    again = run_group([replace(one, resumed=True) for one in jobs])
    assert again == ended
    assert (tmp_path / "0" / "summary.json").read_bytes() == before


def stopping(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """A signal after so many steps of the group."""
    real, stops = loop.train_step, []
    real_fit = experiment.fit

    def fit(group: Group, runs: GroupRuns, stop: Any) -> None:
        stops.append(stop)
        real_fit(group, runs, stop)

    taken = 0

    def counting(group: Group, batches: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == steps:
            stops[0].number = 15
        return real(group, batches)

    monkeypatch.setattr(experiment, "fit", fit)
    monkeypatch.setattr(loop, "train_step", counting)


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


@pytest.mark.parametrize("places", [6, pytest.param(2, marks=pytest.mark.slow)])
def test_losers_are_stopped_and_the_rest_is_as_alone(
    places: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = watched_sizes(monkeypatch)
    jobs = grid(tmp_path / "sweep", *HALVING, f"sweep.places={places}", trials=LADDER)
    ended = run_group(jobs)
    assert all(run.error is None for run in ended)
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
    ended = run_group([replace(one, resumed=True) for one in jobs])
    for ours, theirs in zip(ended, through, strict=True):
        assert read_summary(Path(ours.folder)).status == read_summary(Path(theirs.folder)).status
        assert ours.value == pytest.approx(theirs.value, rel=1e-5)
        assert [row["step"] for row in numbers(Path(ours.folder))] == [
            row["step"] for row in numbers(Path(theirs.folder))
        ]


def test_every_run_of_a_group_says_what_it_was(tmp_path: Path) -> None:
    run_group(grid(tmp_path, trials=GRID[:2]))
    for number in range(2):
        summary = json.loads((tmp_path / str(number) / "summary.json").read_text(encoding="utf-8"))
        assert summary["overrides"] == list(GRID[number])
        assert summary["startup_s"]
        assert summary["wall_s"] > 0
