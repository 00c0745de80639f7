"""Runs that train as a group, against the same runs one by one: every number and tensor, whoever fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from grids import GRID, assert_as_alone, assert_same_run, grid, numbers, train_one_by_one, watched_sizes

from summarizer.console.trial_display import TrialDisplay
from summarizer.errors import NonFiniteLossError
from summarizer.evaluation.evaluator import EvaluationPace, Evaluator
from summarizer.runs import experiment, group_records
from summarizer.runs.callbacks import RunCallbacks
from summarizer.runs.experiment import run_group
from summarizer.runs.record import read_summary
from summarizer.tracking.metrics import read_metrics
from summarizer.training import trainer
from summarizer.training.trial import Trial


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_one_by_one(tmp_path_factory.mktemp("alone"))


@pytest.mark.slow
def test_a_mixed_grid_trains_as_each_of_it_alone(tmp_path: Path, one_by_one: Path) -> None:
    ended = run_group(grid(tmp_path))
    assert_as_alone(ended, one_by_one)
    for run in ended:
        evaluations = [
            row["val/loss"]
            for row in read_metrics(Path(run.folder) / "metrics.jsonl")
            if row["step"] and "val/loss" in row
        ]
        assert run.best is not None
        assert run.best.value == min(evaluations)


@pytest.mark.slow
def test_with_fewer_places_runs_wait_for_them(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes later trains beside others that are further: their last batches are of different sizes."""
    sizes = watched_sizes(monkeypatch)
    assert_as_alone(run_group(grid(tmp_path, "sweep.max_concurrent_trials=3")), one_by_one)
    assert sizes == [3] * 6 + [1] * 6


@pytest.mark.slow
def test_the_base_model_is_asked_once_for_a_sweep(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever groups its runs train in: each has the base's scores of all, to the bit."""
    asked: list[int] = []
    real = Evaluator._row_losses

    def counted(self: Evaluator, rows: Any, slots: Any) -> Any:
        if slots is None:
            asked.append(len(rows))
        return real(self, rows, slots)

    monkeypatch.setattr(Evaluator, "_row_losses", counted)
    runs = grid(tmp_path / "sweep", trials=GRID[:2])
    ended = [one for run in runs for one in run_group([run])]
    assert len(asked) == len(set(asked)) > 0
    for run in ended:
        assert_same_run(Path(run.folder), one_by_one / Path(run.folder).name)
    assert ended[0].base == ended[1].base is not None


@pytest.mark.slow
def test_what_validation_measured_is_not_measured_again_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the final rows are validation's: the loss of the best step, to the bit."""
    measured: list[int] = []
    real = Evaluator._row_losses

    def counted(self: Evaluator, rows: Any, slots: Any) -> Any:
        measured.append(0 if slots is None else len(rows))
        return real(self, rows, slots)

    monkeypatch.setattr(Evaluator, "_row_losses", counted)
    ended = {}
    for name in ("once", "anew", "others"):
        measured.clear()
        if name == "anew":
            monkeypatch.setattr(RunCallbacks, "_final_is_validated", False)
        rows = "evaluation.loss_rows=1" if name == "others" else "evaluation.loss_rows=2"
        ended[name] = run_group(grid(tmp_path / name, rows, trials=GRID[:2]))
        steps = len(
            {r["step"] for r in read_metrics(tmp_path / name / "0" / "metrics.jsonl") if "val/loss" in r}
        )
        during, at_end = steps - 1, 0 if name == "once" else 2
        loss_rows = 1 if name == "others" else 2
        assert [count for count in measured if count] == [loss_rows] * during + [at_end] * bool(at_end)
        if name == "anew":
            monkeypatch.undo()
            monkeypatch.setattr(Evaluator, "_row_losses", counted)
    for once, anew in zip(ended["once"], ended["anew"], strict=True):
        assert once.best is not None
        assert once.val_loss == once.best.value == anew.val_loss


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


@pytest.mark.slow
def test_one_that_diverges_leaves_and_the_others_are_as_alone(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = watched_sizes(monkeypatch)
    bad = ("adapter.dim=4", "optimizer=adamw", "optimizer.lr=1e30")
    jobs = grid(tmp_path, trials=[GRID[0], bad, GRID[1]])
    ended = run_group(jobs)
    assert isinstance(ended[1].cause, NonFiniteLossError)
    assert ended[1].best is None
    summary = read_summary(tmp_path / "1")
    assert (summary.status, summary.ended_by) == ("failed", "error")
    assert "the loss is nan at step" in str(summary.error)
    assert not (tmp_path / "1" / "adapter").exists()
    assert_as_alone([ended[0], ended[2]], one_by_one, [0, 1])
    assert sizes == [3, 3, 2, 2, 2, 2]


@pytest.mark.slow
def test_a_neighbor_s_end_does_not_change_a_bit_while_shapes_stay(
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
    real = trainer.save_checkpoint

    def full(trial: Any) -> Any:
        if trial.folder.name == "0" and trial.state.step == 3:
            raise OSError(28, "No space left on device", str(trial.folder))
        return real(trial)

    monkeypatch.setattr(trainer, "save_checkpoint", full)
    ended = run_group(grid(tmp_path, trials=GRID[:2]))
    assert isinstance(ended[0].cause, OSError)
    failed = read_summary(tmp_path / "0")
    folder = tmp_path / "0"
    said = f"Cannot write {folder}: No space left on device. Nothing that was saved is lost."
    assert (failed.status, failed.error) == ("failed", said)
    assert_as_alone([ended[1]], one_by_one, [1])


@pytest.mark.slow
def test_what_the_disk_refuses_one_run_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk refuses the first run's checkpoint, then its summary; the other goes on."""
    real_save, real_write = trainer.save_checkpoint, group_records.write_summary

    def save(trial: Any) -> Any:
        if trial.folder.name == "0":
            raise OSError(28, "No space left on device", "/the/checkpoint")
        return real_save(trial)

    def write(folder: Path, summary: Any) -> None:
        if folder.name == "0":
            raise OSError(28, "No space left on device", "/the/summary")
        real_write(folder, summary)

    monkeypatch.setattr(trainer, "save_checkpoint", save)
    monkeypatch.setattr(group_records, "write_summary", write)
    with caplog.at_level("INFO"):
        ended = run_group(grid(tmp_path, "evaluation.base=false", trials=GRID[:2]))
    assert [(str(run.cause), run.logged) for run in ended] == [
        ("[Errno 28] No space left on device: '/the/checkpoint'", True),
        ("None", False),
    ]
    assert read_summary(tmp_path / "1").status == "completed"
    (failed,) = (record for record in caplog.records if "failed: " in record.message)
    assert failed.message.endswith(
        "0 failed: Cannot write /the/checkpoint: No space left on device. Nothing that was saved is lost."
    )
    assert failed.exc_info is None
    first_step = next(number for number, text in enumerate(caplog.messages) if "start-up" in text)
    assert caplog.messages.index(failed.message) == first_step + 1


@pytest.mark.parametrize(("second", "lines"), [("adapter.dim=2", 1), ("adapter.dim=4", 2)])
def test_what_all_adapt_is_said_once(
    second: str, lines: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = (
        "trainer.epochs=null",
        "trainer.max_steps=1",
        "evaluation.base=false",
        "sweep.max_concurrent_trials=1",
    )
    with caplog.at_level("INFO"):
        run_group(grid(tmp_path, *short, trials=[("adapter.dim=2", "seed=1"), (second, "seed=2")]))
    assert sum("adapted: " in text for text in caplog.messages) == lines


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
    assert isinstance(ended[0].cause, OSError)
    assert_as_alone([ended[1]], one_by_one, [1])


@pytest.mark.slow
def test_one_whose_optimizer_fails_leaves(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Trial.take_slot

    def with_a_broken_optimizer(trial: Trial, parameters: Any, optimizer: Any, shape: Any) -> None:
        def failing() -> None:
            if trial.folder.name == "1" and trial.state.step == 2:
                raise RuntimeError("no such kernel")
            take_step()

        take_step, optimizer.step = optimizer.step, failing
        real(trial, parameters, optimizer, shape)

    monkeypatch.setattr(Trial, "take_slot", with_a_broken_optimizer)
    ended = run_group(grid(tmp_path, trials=GRID[:2]))
    assert str(ended[1].cause) == "no such kernel"
    assert max(row["step"] for row in read_metrics(tmp_path / "1" / "metrics.jsonl")) == 2
    assert_as_alone([ended[0]], one_by_one, [0])


@pytest.mark.slow
def test_those_that_cannot_begin_do_not_keep_others_from_it(
    tmp_path: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two are offered all the slots there are."""
    real = RunCallbacks.place_in_slot

    def refusing(self: Any, trial: Trial, slot: int) -> None:
        if trial.spec.adapter.dim == 3:
            raise RuntimeError("wandb cannot be opened")
        real(self, trial, slot)

    monkeypatch.setattr(RunCallbacks, "place_in_slot", refusing)
    bad = ("adapter.dim=3",)
    ended = run_group(
        grid(tmp_path, "sweep.max_concurrent_trials=2", trials=[bad, (*bad, "seed=1"), GRID[0]])
    )
    assert [str(run.cause) for run in ended[:2]] == ["wandb cannot be opened"] * 2
    assert_as_alone([ended[2]], one_by_one, [0])


def test_what_fails_before_training_fails_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("the base is broken")

    monkeypatch.setattr(experiment, "load_base", broken)
    ended = run_group(grid(tmp_path, trials=GRID[:2]))
    assert [str(run.cause) for run in ended] == ["the base is broken"] * 2
    assert [read_summary(tmp_path / str(number)).status for number in range(2)] == ["failed"] * 2


def test_what_ends_a_group_in_the_middle_leaves_how_far_each_run_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("the validation rows are gone")

    jobs = grid(tmp_path, "evaluation.base=false", trials=GRID[:2])
    monkeypatch.setattr("summarizer.runs.callbacks.validate", broken)
    assert [str(run.cause) for run in run_group(jobs)] == ["the validation rows are gone"] * 2
    for number in range(2):
        summary = read_summary(tmp_path / str(number))
        assert (summary.status, summary.ended_by, summary.steps) == ("failed", "error", 2)
        assert summary.tokens
        assert summary.train_loss is not None


@pytest.mark.slow
def test_the_time_left_counts_the_evaluations_still_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second for each row's loss, 100 for its summary, and 10,000 more for the base model."""

    def expected_s(_: object, *, loss_rows: int, summary_rows: int, base: bool = False) -> float:
        return loss_rows + 100.0 * summary_rows + 10_000 * base

    told: list[float] = []
    monkeypatch.setattr(EvaluationPace, "expected_s", expected_s)
    monkeypatch.setattr(TrialDisplay, "group", lambda _, tokens_per_s, seconds: told.append(seconds))
    run_group(grid(tmp_path, "sweep.max_concurrent_trials=1", trials=GRID[:2]))
    on_the_way, end = 4 + 200.0, 2 + 200.0
    left = [[at * on_the_way + end for at in (3, 3, 2, 2, 1, 1)] for _ in range(2)]
    first = [of_first + 3 * on_the_way + end + end + 10_000 for of_first in left[0]]
    assert told == first + left[1]
