from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import GRID, end_of, make_grid, make_run, plan

from summarizer.errors import ConfigError
from summarizer.runs.record import RunRecord
from summarizer.runs.settings import UNSET, sweep_axes
from summarizer.sweeps.record import begin, collect, read_sweep, write_sweep
from summarizer.tracking.metrics import MetricsFile


def by_folder(sweep: Path) -> dict[str, RunRecord]:
    return {run.folder: run for run in collect(sweep).runs}


def test_completed_runs_are_ranked_by_their_best_evaluation(tmp_path: Path) -> None:
    make_grid(tmp_path)
    record = collect(tmp_path)
    assert record.metric.model_dump() == {"name": "val/loss", "best": "min"}
    ends = [end_of(dim, rate) for dim, rate in itertools.product((2, 4, 8, 16), (1e-4, 3e-4, 1e-3))]
    assert record.ranked()[0].folder == str(ends.index(min(ends)))
    for run in record.runs:  # the rank is how many are better, and one more
        assert run.rank == 1 + sum(round(end, 12) < round(ends[int(run.folder)], 12) for end in ends)
        assert run.best is not None
        assert run.best.step == 40
    first = record.runs[0]
    assert (first.status, first.ended_by, first.split, first.rows) == ("completed", "epochs", "test", 50)
    assert first.rouge is not None
    assert (first.rouge["rougeL"].low, first.rouge["rougeL"].high) == pytest.approx(
        (28 - ends[0], 32 - ends[0])
    )
    assert (first.steps, first.planned_steps, first.batch_size, first.tokens) == (40, 40, 4, 4000)
    assert (record.samples, record.full_grid_samples, record.saved_samples) == (12 * 160, 12 * 160, 0)
    assert record.tokens == 12 * 4000


def test_the_untrained_base_and_lost_values_are_no_best(tmp_path: Path) -> None:
    plan(tmp_path, [["a=1"], ["a=2"]])
    make_run(tmp_path / "0", ["a=1"], end=2.5, untrained=0.1)
    make_run(tmp_path / "1", ["a=2"], end=2.4, steps=20, status=None)
    MetricsFile(tmp_path / "1" / "metrics.jsonl").log({"step": 25, "tokens": 2500, "val/loss": float("nan")})
    runs = by_folder(tmp_path)
    assert runs["0"].best is not None
    assert runs["0"].best.value > 2.5
    assert runs["1"].best is not None
    assert runs["1"].best.step == 20
    assert (runs["1"].status, runs["1"].steps, runs["1"].tokens) == ("running", 25, 2500)


def test_of_rouge_the_highest_is_best(tmp_path: Path) -> None:
    plan(tmp_path, [["a=1"], ["a=2"]], "val/rouge1")
    make_run(tmp_path / "0", ["a=1"], end=2.5)
    make_run(tmp_path / "1", ["a=2"], end=2.4)
    record = collect(tmp_path)
    assert record.metric.best == "max"
    assert [run.rank for run in record.runs] == [2, 1]
    assert record.winner is record.runs[1]


def test_a_stopped_run_never_ranks_above_a_completed_one(tmp_path: Path) -> None:
    plan(tmp_path, [["a=0"], ["a=1"], ["a=2"], ["a=3"], ["a=4"], ["a=5"]])
    make_run(tmp_path / "0", ["a=0"], end=1.0, steps=10, status="stopped")  # the best value of all
    make_run(tmp_path / "1", ["a=1"], end=2.9)
    make_run(tmp_path / "2", ["a=2"], end=0.5, steps=30, status="failed", summary={"error": "OSError: full"})
    make_run(tmp_path / "3", ["a=3"], end=2.8)
    make_run(tmp_path / "4", ["a=4"], end=0.7, steps=10, status=None)
    record = collect(tmp_path)
    assert [run.folder for run in record.ranked()] == ["3", "1", "0", "4", "5", "2"]
    assert [run.rank for run in record.ranked()] == [1, 2, 3, None, None, None]
    assert [run.status for run in record.runs] == [
        *("stopped", "completed", "failed", "completed", "running", "waiting")
    ]
    assert record.runs[2].error == "OSError: full"


def test_samples_saved_are_those_of_the_steps_that_halving_left_out(tmp_path: Path) -> None:
    make_grid(tmp_path, failed=(2,), stopped=(0, 9))
    record = collect(tmp_path)
    # 9 to the end, 2 stopped after 10 steps, 1 failed after 12; in the full grid it fails there too.
    assert record.samples == 4 * (9 * 40 + 2 * 10 + 12)
    assert record.full_grid_samples == 4 * (11 * 40 + 12)
    assert record.saved_samples == 4 * 2 * 30


def test_a_run_that_has_not_begun_asks_for_as_many_steps_as_its_group(tmp_path: Path) -> None:
    plan(tmp_path, [["a=0"], ["a=1"]])
    make_run(tmp_path / "0", ["a=0"], end=2.0, steps=10, status=None)
    make_run(tmp_path / "1", ["a=1"], end=2.0, steps=0, status=None)
    (tmp_path / "1" / "metrics.jsonl").unlink()
    record = collect(tmp_path)
    assert [run.status for run in record.runs] == ["running", "waiting"]
    assert (record.samples, record.full_grid_samples) == (40, 320)
    begin(tmp_path, [RunRecord(folder="1", overrides=("a=1",), group=1)], "val/loss")  # a group of its own
    assert collect(tmp_path).full_grid_samples is None


@pytest.mark.parametrize(
    ("trainer", "planned"),
    [
        ({"max_steps": 12}, 12),
        ({"max_steps": 500}, 40),
        ({"epochs": None, "max_steps": 30}, 30),
        ({"epochs": 0.33}, 7),
    ],
)
def test_planned_steps_are_what_the_config_asks_for(
    tmp_path: Path, trainer: dict[str, Any], planned: int
) -> None:
    plan(tmp_path, [["a=1"]])
    make_run(tmp_path / "0", ["a=1"], end=2.0, steps=7, status="stopped", trainer=trainer)
    assert collect(tmp_path).runs[0].planned_steps == planned


def test_a_run_that_waits_asks_for_its_own_steps(tmp_path: Path) -> None:
    """The runs of a group may differ in how long they train."""
    long, short = "trainer.epochs=4", "trainer.epochs=2"
    plan(tmp_path, [[long, "seed=0"], [long, "seed=1"], [short, "seed=0"]])
    make_run(tmp_path / "0", [long, "seed=0"], end=2.5)
    planned = {folder: run.planned_steps for folder, run in by_folder(tmp_path).items()}
    assert planned == {"0": 40, "1": 40, "2": None}


def test_planned_steps_of_a_long_epoch_are_exact(tmp_path: Path) -> None:
    """metrics.jsonl rounds its epochs, summary.json does not: ten steps of 143,556 here."""
    plan(tmp_path, [["a=1"]])
    make_run(
        *(tmp_path / "0", ["a=1"]),
        end=2.0,
        steps=10,
        status="stopped",
        trainer={"epochs": 3.0},
        summary={"epochs": 10 / 143_556},
    )
    assert collect(tmp_path).runs[0].planned_steps == 3 * 143_556


def test_a_second_batch_adds_to_the_plan_and_a_resumed_one_repeats_it(tmp_path: Path) -> None:
    plan(tmp_path, [["a=1", "tracking.api_key=geheim"]])
    plan(tmp_path, [["a=2"], ["a=3"]], first=1)
    plan(tmp_path, [["a=1", "tracking.api_key=geheim"]])
    record = read_sweep(tmp_path)
    assert [(run.folder, run.overrides) for run in record.runs] == [
        ("0", ("a=1", "tracking.api_key=***")),
        ("1", ("a=2",)),
        ("2", ("a=3",)),
    ]
    assert "geheim" not in (tmp_path / "sweep.json").read_text()
    before = (tmp_path / "sweep.json").read_bytes()
    with pytest.raises(ConfigError, match=r"2 is taken by a run with a=3") as caught:
        begin(tmp_path, [RunRecord(folder="2", overrides=("a=4",)), RunRecord(folder="../x")], "val/rouge1")
    assert [issue.key for issue in caught.value.issues] == [
        *("trainer.best_metric", "hydra.sweep.subdir", "hydra.sweep.subdir")
    ]
    assert (tmp_path / "sweep.json").read_bytes() == before


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    make_grid(tmp_path, failed=(2,), stopped=(0,))
    record = collect(tmp_path)
    write_sweep(tmp_path, record)
    assert read_sweep(tmp_path) == record
    assert collect(tmp_path) == record
    plain = json.loads((tmp_path / "sweep.json").read_text())
    assert plain["runs"][7]["rank"] == 1
    # A status is not believed: the folder tells it.
    plain["runs"][0]["status"] = "completed"
    (tmp_path / "sweep.json").write_text(json.dumps(plain))
    assert collect(tmp_path) == record


@pytest.mark.parametrize("folder", ["../other", "/etc", "a/../../b", "", ".", "a\nb", "a\x00b", "link"])
def test_a_folder_outside_the_sweep_is_refused(tmp_path: Path, folder: str) -> None:
    sweep = tmp_path / "sweep"
    plan(sweep, [["a=1"]])
    (sweep / "link").symlink_to(tmp_path)
    plain = json.loads((sweep / "sweep.json").read_text())
    plain["runs"][0]["folder"] = folder
    (sweep / "sweep.json").write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match=r"runs\.0\.folder"):
        collect(sweep)


def test_a_run_named_twice_and_a_broken_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no sweep to read here"):
        read_sweep(tmp_path)
    plan(tmp_path, [["a=1"], ["a=2"]])
    plain = json.loads((tmp_path / "sweep.json").read_text())
    plain["runs"][1]["folder"] = "0"
    (tmp_path / "sweep.json").write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match="0 is another run's too"):
        read_sweep(tmp_path)
    plain["runs"][1] |= {"group": "x", "color": 1}
    (tmp_path / "sweep.json").write_text(json.dumps(plain))
    with pytest.raises(ConfigError) as caught:
        read_sweep(tmp_path)
    assert {issue.key.rpartition(": ")[2] for issue in caught.value.issues} == {
        "runs.1.group",
        "runs.1.color",
    }


def test_every_broken_run_is_named(tmp_path: Path) -> None:
    make_grid(tmp_path)
    (tmp_path / "1" / "summary.json").write_text("{}")
    (tmp_path / "3" / "metrics.jsonl").write_text("x\n{}\n")
    (tmp_path / "5" / ".hydra" / "config.yaml").write_text("trainer: {batch_size: [")
    (tmp_path / "7" / ".hydra" / "config.yaml").write_text("[]")
    with pytest.raises(ConfigError) as caught:
        collect(tmp_path)
    named = {Path(issue.key.split(":")[0]).relative_to(tmp_path).parts[0] for issue in caught.value.issues}
    assert named == {"1", "3", "5", "7"}


def test_numbers_sort_as_numbers_and_text_as_text(tmp_path: Path) -> None:
    rates, dims, optimizers = ["1e-3", "3e-4", "0.0001", "1e-4"], ["16", "2", "8", "4"], ["sgd", "adamw"]
    runs = [
        ["data=sample", f"adapter.dim={dim}", f"optimizer.lr={rate}", f"optimizer={name}"]
        for dim, rate, name in itertools.product(dims, rates, optimizers)
    ]
    random.Random(0).shuffle(runs)
    plan(tmp_path, runs)
    found = sweep_axes(read_sweep(tmp_path).runs)
    assert found.keys == ("adapter.dim", "optimizer.lr", "optimizer")
    assert [value.text for value in found.values("adapter.dim")] == ["2", "4", "8", "16"]
    assert [value.number for value in found.values("optimizer.lr")] == [1e-4, 3e-4, 1e-3]  # however typed
    assert [value.text for value in found.values("optimizer")] == ["adamw", "sgd"]
    assert found.common == ("data=sample",)


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("'a,b'", "a,b"),
        ('"it\'s"', "it's"),
        ("'grün 日本'", "grün 日本"),
        ("'two\nlines\x1b[31m'", "two lines [31m"),
        ("[1,2]", "[1,2]"),
        ("null", "null"),
        ("true", "true"),
        ("''", "''"),
        ("0.30000000000000004", "0.3"),
        ("12345678901", "12345678901"),
    ],
)
def test_values_are_read_as_hydra_reads_them(tmp_path: Path, typed: str, text: str) -> None:
    plan(tmp_path, [["+a.b=7"], [f"a.b={typed}"]])
    found = sweep_axes(read_sweep(tmp_path).runs)
    assert found.of["1"]["a.b"].text == text
    assert found.of["0"]["a.b"].text == "7"


def test_a_key_that_one_run_leaves_alone_is_swept_too(tmp_path: Path) -> None:
    plan(tmp_path, [["a=1"], ["a=1", "b=2"], ["a=3", "a=1", "b=null"]])
    found = sweep_axes(read_sweep(tmp_path).runs)
    assert found.keys == ("b",)  # of a key given twice the last counts
    assert [found.of[folder]["b"].text for folder in "012"] == [UNSET.text, "2", "null"]
    plan(tmp_path, [["a='"]], first=3)
    with pytest.raises(ConfigError, match="run 3: an override cannot be read"):
        sweep_axes(read_sweep(tmp_path).runs)


def test_the_grid_of_these_tests_is_whole() -> None:
    assert len(set(GRID)) == 12
