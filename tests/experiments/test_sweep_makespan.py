"""The study of a sweep's makespan: its arithmetic, that all systems do the same work, that its command runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from small_runs import REPOSITORY
from transformers import GPTJConfig

# Its files import each other by name, as the command does.
sys.path.insert(0, str(REPOSITORY / "experiments" / "sweep_makespan"))

import contenders
import makespans
import sweep_turns
import sweep_workload
from contenders import FUSED, ONE_BY_ONE, PEER, Machine, OwnProcesses, Sweep, SweepError, TrialTime
from makespans import Row
from peer_work import PeerWork, read_work
from sweep_workload import Setting, grid_of

from summarizer.console.progress import Bar
from summarizer.data.prompt import build_prompt
from summarizer.data.splits import build_split
from summarizer.errors import ConfigError
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import load_tokenizer
from summarizer.runs.record import RunRecord

STUDY = REPOSITORY / "experiments" / "sweep_makespan"
SMALL = ("data.rows.train=5", "data.rows.validation=3", "evaluation.rows=2", "tracking=none")


def timed(end_s: float, startup_s: float = 1.0, training_s: float = 5.0, group: int = 0) -> TrialTime:
    return TrialTime(end_s, startup_s, training_s, 100, 2.5, 4.0, 10.0, 1000, 2**30, group)


def row(system: str, trials: int, makespan_s: float | None, turn: int = 0) -> Row:
    return Row(
        system,
        None,
        trials,
        turn,
        ran=trials,
        makespan_s=makespan_s,
        startup_s=1.0,
        training_s=2.0,
        evaluation_s=1.0,
        tokens=100 * trials,
        groups=1,
        val_losses=(2.5,) * trials,
        base_losses=(4.0,) * trials,
        trainable_parameters=(1000,) * trials,
        peak_bytes=2**30,
    )


@pytest.mark.parametrize("trials", [1, 2, 4, 8, 16])
def test_hydra_runs_the_trials_of_a_grid_in_their_order(trials: int) -> None:
    grid = grid_of(trials)
    overrides = OverridesParser.create().parse_overrides(grid.overrides)
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    values = [dict(override.split("=") for override in overrides) for overrides in batch]
    found = [(int(own["adapter.dim"]), float(own["optimizer.lr"])) for own in values]
    assert found == [(dim, float(rate)) for dim, rate in grid.trials]
    assert len(set(grid.trials)) == trials


def test_a_shorter_sweep_is_the_beginning_of_a_longer_one() -> None:
    longest = grid_of(sweep_workload.MOST_TRIALS).trials
    for trials in (1, 2, 3, 4, 8, 12, 16):
        assert grid_of(trials).trials == longest[:trials]
    assert grid_of(8).trials[0::4] == [(2, "1e-4"), (2, "3e-4")]
    for wrong in (0, 5, 7, sweep_workload.MOST_TRIALS + 4):
        with pytest.raises(ValueError, match=f"no sweep of {wrong} trials"):
            grid_of(wrong)


def test_trials_that_did_not_run_are_counted_as_the_later_ones() -> None:
    """The first pays for imports that a process keeps."""
    assert makespans.counted([10.0, 4.0, 6.0], 3) == 20
    assert makespans.counted([10.0, 4.0, 6.0], 2) == 14
    assert makespans.counted([10.0, 4.0, 6.0], 5) == 20 + 2 * 5
    assert makespans.counted([10.0], 3) == 30


def test_the_row_of_a_fused_sweep_counts_a_group_s_seconds_once() -> None:
    times = [timed(20, 3, 8), timed(21, 3, 9), timed(33, 2, 7, group=1)]
    found = makespans.row_of(FUSED, 256, 0, 3, times, 35.0)
    assert (found.makespan_s, found.command_s) == (33, 35)
    assert (found.startup_s, found.training_s, found.groups) == (3 + 2, 9 + 7, 2)
    assert found.evaluation_s == 33 - 5 - 16
    assert (found.tokens, found.ran) == (300, 3)


def test_the_row_of_a_longer_sweep_than_was_run() -> None:
    times = [timed(20, 3, 8, group=0), timed(30, 1, 6, group=1), timed(99, group=2)]
    found = makespans.row_of(PEER, None, 1, 4, times[:2], 31.0)
    assert found.makespan_s == 20 + 10 + 2 * 10
    assert (found.startup_s, found.training_s) == (3 + 1 + 2, 8 + 6 + 2 * 6)
    assert (found.tokens, found.ran, found.command_s, found.groups) == (400, 2, None, 4)
    assert makespans.row_of(PEER, None, 1, 2, times, 31.0).makespan_s == 30
    assert makespans.row_of(PEER, None, 1, 2, times, 31.0).command_s == 31


def test_the_start_up_ends_where_evaluation_and_training_begin() -> None:
    parts = {"imports": 3.0, "compile": 20.0, "evaluation of the base": 5.0, "first step": 0.5}
    summary = RunRecord(
        status="completed", overrides=[], seed=0, startup_s=parts, model="m", quantization="int8", versions={}
    )
    assert contenders.startup_s(summary) == 23
    assert contenders.startup_s(summary.model_copy(update={"startup_s": None})) == 0


def test_other_work_is_told() -> None:
    same = [row(FUSED, 2, 10.0), row(PEER, 2, 50.0), row(PEER, 4, 50.0)]
    assert makespans.disagreements(same) == []
    assert makespans.disagreements([*same, replace(same[1], base_losses=(4.07, 4.0))]) == []
    for change, said in (
        ({"tokens": 201}, "201 and 200 tokens"),
        ({"trainable_parameters": (1000, 1001)}, "numbers of parameters"),
        ({"base_losses": (4.0, 4.2)}, "the base's losses"),
    ):
        (found,) = makespans.disagreements([*same, replace(same[1], **change)])
        assert said in found
        assert makespans.disagreements([*same, replace(same[1], **change, problem="failed")]) == []


def test_the_table_has_a_line_for_each_system_and_size() -> None:
    rows = [row(FUSED, 8, 30.0), row(FUSED, 8, 34.0, turn=1), row(FUSED, 8, 32.0, turn=2)]
    rows += [row(PEER, 8, 320.0), replace(row(ONE_BY_ONE, 8, None), problem="exit code 1: no memory")]
    rows += [replace(row(FUSED, 16, 60.0), groups=2), replace(row(PEER, 16, 640.0), ran=2)]
    lines = makespans.table(rows).splitlines()
    assert len({line.count("|") for line in lines[:7]}) == 1
    assert [line.split(" | ")[1:3] for line in lines[2:7]] == [
        ["8", "fused"],
        ["8", "one by one"],
        ["8", "peer"],
        ["16", "fused"],
        ["16", "peer"],
    ]
    assert "| 32.0 s (30.0-34.0) | 1.00 | 4.0 s | 25 |" in lines[2]
    assert "no memory" in lines[3]
    assert "| 320.0 s | 10.00 | 40.0 s |" in lines[4]
    assert "1.0 s (3%) | 2.0 s (6%) | 1.0 s (3%) | 2.500 | 1.00 GiB |" in lines[2]
    assert lines[-1] == "peer, 16 trials: 2 ran, the others are counted as those after the first"
    assert "fused, 16 trials: in 2 groups" in lines


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        row(FUSED, 2, 10.0),
        row(FUSED, 4, 15.0),
        row(PEER, 2, 50.0),
        replace(row(PEER, 4, None), problem="no"),
    ]
    assert makespans.read_rows(tmp_path) == []
    makespans.write(rows, {"device": "cpu"}, tmp_path)
    assert makespans.read_rows(tmp_path) == rows
    assert (tmp_path / "makespan.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "table.md").read_text() == f"- device: cpu\n\n{makespans.table(rows)}\n"


def test_a_longer_sweep_goes_on_where_the_shorter_one_ended(tmp_path: Path) -> None:
    """Each process is as if it had followed at once; what ran in between is nobody's."""
    ran = []

    def command(trial: sweep_workload.Trial, run: Path) -> list[str]:
        ran.append(trial)
        return ["-c", "pass"]

    def read(run: Path, begun_s: float, group: int) -> TrialTime:
        return timed(time.time() - begun_s, group=group)

    own = OwnProcesses(Machine(tmp_path, tmp_path, 1), tmp_path / "runs", command, read)
    begun_s = time.time()
    own.run_to(grid_of(1).trials)
    time.sleep(0.5)
    own.run_to(grid_of(3).trials)
    own.run_to(grid_of(2).trials)
    took_s = time.time() - begun_s
    assert ran == grid_of(3).trials
    ends = [one.end_s for one in own.times]
    assert ends == sorted(ends)
    assert ends == pytest.approx(own.command_s, abs=0.05)
    assert ends[-1] < took_s - 0.5, "the pause was counted"
    with pytest.raises(SweepError, match=r"exit code 3: .*oh no"):
        own.machine.run(["-c", "print('oh no'); raise SystemExit(3)"], tmp_path / "failed.log")


def test_systems_take_turns_and_one_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept = []

    def run_sweep(
        machine: Machine, folder: Path, grid: sweep_workload.Grid, overrides: object, *, fused: bool
    ) -> Sweep:
        swept.append((len(grid.trials), fused))
        folder.mkdir()
        if not fused and len(grid.trials) == 1:
            raise SweepError("no memory")
        return Sweep([timed(10.0 * (number + 1), group=number) for number in range(len(grid.trials))], 50.0)

    monkeypatch.setattr(sweep_turns, "run_sweep", run_sweep)
    turns = sweep_turns.Turns(
        Machine(tmp_path, tmp_path, 1), [FUSED, ONE_BY_ONE], [1, 2, 4], 2, [], "fp32", 0, 256, most_alone=2
    )
    rows = list(turns.measured(Bar("sweeps", None, 0, silent=True)))
    assert swept[:5] == [(1, True), (1, False), (2, True), (2, False), (4, True)]
    assert swept[5:7] == [(1, False), (1, True)], "the second turn begins with the other"
    assert [(r.trials, r.turn, r.problem) for r in rows if r.problem] == [
        (1, 0, "no memory"),
        (1, 1, "no memory"),
    ]
    counted = next(r for r in rows if (r.system, r.trials) == (ONE_BY_ONE, 4))
    assert (counted.ran, counted.makespan_s) == (2, 40)


def prepared(setting: Setting, tokens: int | None, work: Path) -> PeerWork:
    sweep_workload.prepare(setting, tokens, work)
    return read_work(work)


def test_the_peer_is_given_this_project_s_rows_in_their_order(tmp_path: Path) -> None:
    setting = Setting(sweep_workload.EMBEDDED, None, "cpu", (*SMALL, "trainer.epochs=2"))
    given = prepared(setting, 200, tmp_path)
    spec = sweep_workload.compose_spec(sweep_workload.shared_overrides(setting, 200, tmp_path))
    prompt = build_prompt(spec.prompt, load_tokenizer(model_folder(spec.model)))
    train = build_split(spec.data, "train", prompt)
    assert len(given.batches) == 2 * 3
    assert (given.evaluate_every, len(given.validation), len(given.final)) == (3, 3, 2)
    stream = train.batches(spec.seed, 2, 0, shuffle=True, group_by_length=False)
    for batch, rows in zip(islice(stream, 6), given.batches, strict=True):
        for one, number in zip(batch, rows, strict=True):
            example = given.train[number]
            assert (example.ids, example.prompt_tokens) == prompt.training_ids(
                one.article_ids, one.target_ids
            )
    held = given.validation[0]
    assert len(held.prompt_ids) <= 200 - spec.generation.max_new_tokens
    assert held.example.ids[: len(prompt.before)] == list(prompt.before)
    assert given.optimizer == {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
    assert given.generation["max_new_tokens"] == spec.generation.max_new_tokens
    assert (given.wandb_mode, given.best_metric, given.max_grad_norm) == ("disabled", "val/loss", 1.0)


def test_what_the_peer_cannot_do_is_refused(tmp_path: Path) -> None:
    overrides = ["optimizer=sgd", "trainer.schedule.name=cosine", "tracking=none"]
    with pytest.raises(ConfigError) as caught:
        sweep_workload.compose_spec(overrides)
    assert [issue.key for issue in caught.value.issues] == ["optimizer._target_", "trainer.schedule.name"]


@pytest.mark.slow
def test_random_weights_come_with_rows_that_fill_every_example(tmp_path: Path) -> None:
    """GPT-J-6B's way at a small size: its folder is there already."""
    config = GPTJConfig(vocab_size=8192, n_embd=64, n_layer=2, n_head=2, rotary_dim=16, n_positions=512)
    sweep_workload._write_random_model(config, tmp_path / "model", "cpu")
    given = prepared(Setting(sweep_workload.GPTJ_6B, None, "cpu", ("tracking=none",)), 320, tmp_path)
    assert {len(example.ids) for example in given.train} == {320}
    assert {len(row.prompt_ids) for row in given.validation} == {320 - 64}
    targets = [len(example.ids) - example.prompt_tokens for example in given.train]
    assert sum(targets) / len(targets) == pytest.approx(sweep_workload.SUMMARY_TOKENS, rel=0.15)
    assert Path(given.model) == tmp_path / "model"


def test_the_peer_s_weights_are_the_embedded_base_s(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from summarizer.config.schema import QuantizationConfig
    from summarizer.models.load import load_base

    given = prepared(Setting(sweep_workload.EMBEDDED, None, "cpu", SMALL), None, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32)
    spec = sweep_workload.compose_spec(["tracking=none"])
    ours = load_base(spec.model, QuantizationConfig(format="int8", cache=False), torch.device("cpu")).model
    ids = torch.arange(100, 140).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours.logits(ids), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_quick_command_runs(tmp_path: Path) -> None:
    """In fp32, so that all sides can be compared."""
    out = tmp_path / "out"
    ended = subprocess.run(
        [
            sys.executable,
            STUDY / "measure.py",
            "--quick",
            "--peer-base=fp32",
            f"--out={out}",
            "trainer.precision=fp32",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [row["system"] for row in rows] == ["fused", "one by one", "peer"]
    fused, alone, peer = rows
    for found in rows:
        assert found["problem"] is None
        assert (found["ran"], found["trials"]) == (2, 2)
        parts = [found[name] for name in ("startup_s", "training_s", "evaluation_s")]
        assert sum(parts) == pytest.approx(found["makespan_s"])
        assert min(parts) > 0
        assert found["makespan_s"] <= found["command_s"]
        assert found["tokens"] == fused["tokens"] > 0
        assert found["base_losses"] == pytest.approx(fused["base_losses"], rel=1e-4)
        assert found["base_rouge1"] == pytest.approx(fused["base_rouge1"], abs=1e-6), "other summaries"
        assert found["val_losses"] == pytest.approx(fused["val_losses"], rel=0.02)
    assert alone["val_losses"] == pytest.approx(fused["val_losses"], rel=1e-4)
    assert (fused["groups"], alone["groups"], peer["groups"]) == (1, 2, 2)
    assert (out / "makespan.png").read_bytes().startswith(b"\x89PNG")
    assert ended.stdout.strip() in (out / "table.md").read_text()
