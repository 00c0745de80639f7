"""The answer of a sweep on rows that chose nothing, against slow loops, and what of it is done again."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from synthetic_sweep import make_run, plan

from summarizer.errors import RunsFailed, StopRequested
from summarizer.evaluation.metrics import RowLosses
from summarizer.evaluation.record import LOSS
from summarizer.evaluation.rows import ScoredRows
from summarizer.evaluation.statistics import expected_best
from summarizer.reports.budget import expected_by_budget
from summarizer.reports.compare_command import Request, compare
from summarizer.reports.confirmed import confirmed_answer, confirmed_notes
from summarizer.reports.sweep_report import report_sweep
from summarizer.runs.session import Session
from summarizer.runs.settings import UNSET, SweepAxes, sweep_axes
from summarizer.sweeps import confirm as confirming
from summarizer.sweeps.candidates import (
    Setting,
    default_values,
    settings_of,
    spread_between,
    spread_within,
)
from summarizer.sweeps.confirm import confirm
from summarizer.sweeps.confirmation import Confirmation, read_confirmation
from summarizer.sweeps.record import collect

ROWS, TOKENS = 60, 10
GRID = [
    (f"adapter.dim={dim}", f"optimizer.lr={rate}", f"seed={seed}")
    for dim in (2, 8)
    for rate in ("1e-4", "3e-4")
    for seed in (0, 1)
]
WINNER, CLOSE, FAR, DEFAULT = "dim 8 at 3e-4", "dim 8 at 1e-4", "dim 2 at 3e-4", "dim 2 at 1e-4"
VALUES = {WINNER: 2.30, CLOSE: 2.303, FAR: 2.40, DEFAULT: 2.50}
COMMAND = """
adapter: {dim: 2, _target_: a.b}
optimizer: {lr: 1.0e-4}
seed: 0
hydra: {runtime: {choices: {adapter: lora}}}
"""


def name_of(overrides: Sequence[str]) -> str:
    of = dict(text.split("=") for text in overrides)
    return f"dim {of['adapter.dim']} at {of['optimizer.lr']}"


def make_sweep(sweep: Path, unfinished: Sequence[int] = ()) -> None:
    plan(sweep, GRID)
    for number, overrides in enumerate(GRID):
        end = VALUES[name_of(overrides)] + 0.001 * (number % 2)
        stopped = {"status": "stopped", "steps": 10} if number in unfinished else {}
        make_run(sweep / str(number), overrides, end=end, **stopped)  # type: ignore[arg-type]
    (sweep / "multirun.yaml").write_text(COMMAND)


class MadeUp:
    """In the place of runs over a model: losses by row, the same wherever they are asked for."""

    asked: list[tuple[str, str]] = []  # noqa: RUF012 - of each test anew

    def __init__(self, runs: Mapping[str, Any]) -> None:
        self.runs = runs

    def confirming(self, _: object) -> ScoredRows:
        return ScoredRows("", "test", [str(i) for i in range(ROWS)], [""] * ROWS, [""] * ROWS)

    def losses(self, settings: Sequence[Setting], kind: str) -> dict[str, RowLosses]:
        of_runs = self.row_losses(settings, kind)
        return {name: confirming.averaged(list(losses.values())) for name, losses in of_runs.items()}

    def row_losses(self, settings: Sequence[Setting], kind: str) -> dict[str, dict[str, RowLosses]]:
        self.asked += [(kind, one.name) for one in settings]
        return {
            one.name: {run.folder: made_up(one.name, int(run.folder)) for run in one.runs} for one in settings
        }

    def rouge(self, *_: object) -> dict[str, Any]:
        raise AssertionError("the sweep writes no summaries")


def made_up(name: str, run: int) -> RowLosses:
    """A row is as hard for all; a setting adds its value, and a seed a little luck of each row."""
    rows = np.random.default_rng(7).normal(0, 1, ROWS)
    own = np.random.default_rng(100 + run).normal(0, 0.05, ROWS)
    per_token = VALUES[name] + 0.3 * rows + own
    return RowLosses(TOKENS * per_token, np.full(ROWS, TOKENS))


@pytest.fixture
def made_up_runs(monkeypatch: pytest.MonkeyPatch) -> type[MadeUp]:
    settings = SimpleNamespace(
        confirm_split="test", bootstrap_samples=400, bootstrap_seed=3, rows_during_training=0
    )
    run = SimpleNamespace(spec=SimpleNamespace(evaluation=settings))
    monkeypatch.setattr(confirming, "read_trained_run", lambda folder: run)
    monkeypatch.setattr(confirming, "_Work", MadeUp)
    monkeypatch.setattr(MadeUp, "asked", [])
    return MadeUp


def confirmed(sweep: Path) -> Confirmation:
    found = confirm(sweep)
    assert found is not None
    return found


def test_the_winner_the_close_ones_and_the_default_are_compared(
    tmp_path: Path, made_up_runs: type[MadeUp]
) -> None:
    make_sweep(tmp_path)
    found = confirmed(tmp_path)
    assert [one.name for one in found.settings] == [WINNER, CLOSE, DEFAULT]
    assert [one.is_default for one in found.settings] == [False, False, True]
    assert found.behind == (FAR,)
    assert [name for kind, name in made_up_runs.asked if kind == "confirming"] == [WINNER, CLOSE, DEFAULT]
    assert [one.runs for one in found.settings] == [("6", "7"), ("4", "5"), ("0", "1")]


def test_differences_are_those_of_a_slow_loop(tmp_path: Path, made_up_runs: type[MadeUp]) -> None:
    make_sweep(tmp_path)
    found = confirmed(tmp_path)
    per_setting = {
        name: [sum(made_up(name, run).nats[row] for run in runs) / 2 for row in range(ROWS)]
        for name, runs in ((WINNER, (6, 7)), (CLOSE, (4, 5)), (DEFAULT, (0, 1)))
    }
    generator, samples = np.random.default_rng(3), {CLOSE: [], DEFAULT: []}  # type: ignore[var-annotated]
    for _ in range(400):
        drawn = [int(i) for i in generator.integers(ROWS, size=ROWS)]
        for name, values in samples.items():
            gap = sum(per_setting[WINNER][i] - per_setting[name][i] for i in drawn)
            values.append(gap / (TOKENS * ROWS))
    by_name = {one.second: one for one in found.differences}
    for name, values in samples.items():
        one = by_name[name]
        assert (one.first, one.metric, one.rows) == (WINNER, LOSS, ROWS)
        gap = sum(per_setting[WINNER]) - sum(per_setting[name])
        assert one.mean.value == pytest.approx(gap / (TOKENS * ROWS))
        assert one.mean.low == pytest.approx(np.quantile(values, 0.025))
        assert one.mean.high == pytest.approx(np.quantile(values, 0.975))
    # Holm, by hand: the smaller p counts twice, the other once but no less than that.
    small, large = sorted(found.differences, key=lambda one: one.p_value)
    assert small.p_holm == pytest.approx(min(1, 2 * small.p_value))
    assert large.p_holm == pytest.approx(max(small.p_holm, large.p_value))
    assert by_name[DEFAULT].significant
    assert not by_name[CLOSE].significant


def test_luck_in_the_seed_is_told_apart_from_the_rows(tmp_path: Path, made_up_runs: type[MadeUp]) -> None:
    make_sweep(tmp_path)
    found = confirmed(tmp_path)
    means = [
        [made_up(name, run).mean for run in runs]
        for name, runs in ((WINNER, (6, 7)), (CLOSE, (4, 5)), (DEFAULT, (0, 1)))
    ]
    for setting, of_seeds in zip(found.settings, means, strict=True):
        assert setting.seed_losses == pytest.approx(of_seeds)
        assert setting.loss.value == pytest.approx(sum(of_seeds) / 2)
    # Of two seeds the variance is half the square of their gap.
    pooled = math.sqrt(sum((a - b) ** 2 / 2 for a, b in means) / 3)
    assert found.spread_of_seeds == pytest.approx(pooled)
    centers = [sum(pair) / 2 for pair in means]
    middle = sum(centers) / 3
    assert found.spread_of_settings == pytest.approx(
        math.sqrt(sum((one - middle) ** 2 for one in centers) / 2)
    )
    assert spread_within([[1.0], [2.0]]) is None
    assert spread_between([[1.0]]) is None


def test_the_sentence_says_what_is_sure(tmp_path: Path, made_up_runs: type[MadeUp]) -> None:
    make_sweep(tmp_path)
    found = confirmed(tmp_path)
    far = next(one for one in found.differences if one.second == DEFAULT).mean
    gain = f"{-far.value:.3f} nats ({-far.high:.3f} to {-far.low:.3f})"
    assert confirmed_answer(found) == (
        f"Confirmed on 60 test rows that chose nothing: {WINNER} beats {DEFAULT} (the default) by {gain}; "
        f"it is not told apart from {CLOSE}."
    )
    notes = " ".join(confirmed_notes(found))
    assert "seeds of one setting lie" in notes
    assert f"not scored here: {FAR}." in notes


def test_only_runs_that_finished_count_and_it_says_so(tmp_path: Path, made_up_runs: type[MadeUp]) -> None:
    make_sweep(tmp_path, unfinished=(7, 4, 5))
    found = confirmed(tmp_path)
    assert [one.name for one in found.settings] == [WINNER, DEFAULT]
    assert (found.winner.runs, found.winner.planned) == (("6",), 2)
    assert "5 of 8 runs trained to their end; only those are compared." in confirmed_notes(found)
    assert CLOSE not in json.dumps(found.model_dump(mode="json"))


def test_a_sweep_is_confirmed_once_until_it_has_other_runs(
    tmp_path: Path, made_up_runs: type[MadeUp]
) -> None:
    make_sweep(tmp_path, unfinished=(7,))
    first = confirmed(tmp_path)
    asked = len(made_up_runs.asked)
    kept = read_confirmation(tmp_path)
    assert kept is not None
    assert kept.model_dump() == first.model_dump()
    assert confirmed(tmp_path) == kept
    assert len(made_up_runs.asked) == asked
    make_run(tmp_path / "7", GRID[7], end=VALUES[WINNER])  # resumed
    assert confirmed(tmp_path).winner.runs == ("6", "7")
    assert len(made_up_runs.asked) > asked


def test_null_and_a_sweep_of_one_setting_confirm_nothing(
    tmp_path: Path, made_up_runs: type[MadeUp], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sweep(tmp_path / "a")
    off = SimpleNamespace(spec=SimpleNamespace(evaluation=SimpleNamespace(confirm_split=None)))
    monkeypatch.setattr(confirming, "read_trained_run", lambda folder: off)
    assert confirm(tmp_path / "a") is None
    seeds = [("adapter.dim=2", f"seed={seed}") for seed in (0, 1)]
    plan(tmp_path / "b", seeds)
    for number, overrides in enumerate(seeds):
        make_run(tmp_path / "b" / str(number), overrides, end=2.0)
    assert confirm(tmp_path / "b") is None
    assert not made_up_runs.asked


def test_the_report_has_it_and_the_record_keeps_it(
    tmp_path: Path, made_up_runs: type[MadeUp], capsys: pytest.CaptureFixture[str]
) -> None:
    make_sweep(tmp_path)
    found = confirmed(tmp_path)
    record = report_sweep(tmp_path)
    assert record.confirmed is not None
    assert record.confirmed.model_dump() == found.model_dump()
    assert json.loads((tmp_path / "sweep.json").read_text())["confirmed"]["rows"] == ROWS
    err = capsys.readouterr().err
    assert confirmed_answer(found) in err
    text = (tmp_path / "sweep.md").read_text()
    assert "**Confirmed on 60 test rows that chose nothing: dim 8 at 3e-4 beats " in text
    assert "| **dim 8 at 3e-4** |" in text


def test_a_stop_while_it_confirms_still_reports(
    tmp_path: Path,
    made_up_runs: type[MadeUp],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_sweep(tmp_path)

    def stopped(*_: object) -> None:
        raise StopRequested(15)

    monkeypatch.setattr(MadeUp, "row_losses", stopped)
    session = Session()
    with caplog.at_level("INFO"), pytest.raises(StopRequested), session.reporting():
        session.sweeps[tmp_path] = None  # type: ignore[assignment]
    assert "resume with resume=" in caplog.text
    assert "## Confirmed" not in (tmp_path / "sweep.md").read_text()
    assert read_confirmation(tmp_path) is None


def test_the_default_is_what_the_command_has_without_the_sweep(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    record = collect(tmp_path)
    swept = sweep_axes(record.runs)
    default = default_values(tmp_path, [*swept.keys, "adapter"])
    assert default["adapter"].text == "lora"
    assert [one.name for one in settings_of(record, swept, default) if one.is_default] == [DEFAULT]
    later = {run: {**of, "adapter": UNSET} for run, of in swept.of.items()}
    with_kinds = SweepAxes((*swept.keys, "adapter"), later, swept.common)
    named = [one.is_default for one in settings_of(record, with_kinds, default)]
    assert named.count(True) == 1, "runs from before a key was swept have its default"
    (tmp_path / "multirun.yaml").unlink()
    assert default_values(tmp_path, swept.keys) == {}
    assert not any(one.is_default for one in settings_of(record, swept, {}))


@pytest.mark.parametrize("lower", [True, False])
def test_the_expected_best_is_that_of_all_draws(lower: bool) -> None:
    values = [2.5, 2.1, 2.1, 3.0]
    best = min if lower else max
    by_enumeration = [
        sum(best(drawn) for drawn in itertools.product(values, repeat=budget)) / len(values) ** budget
        for budget in range(1, len(values) + 1)
    ]
    assert expected_best(values, lower_is_better=lower) == pytest.approx(by_enumeration)


def test_the_curve_of_fewer_trials_is_of_settings_and_of_each_kind(tmp_path: Path) -> None:
    grid = [
        (f"adapter={kind}", f"optimizer.lr={rate}", f"seed={seed}")
        for kind in ("lora", "rslora")
        for rate in ("1e-4", "3e-4")
        for seed in (0, 1)
    ]
    plan(tmp_path, grid)
    for number, overrides in enumerate(grid):
        make_run(tmp_path / str(number), overrides, end=2.0 + 0.1 * number, steps=200)
    record = collect(tmp_path)
    curves = expected_by_budget(record, sweep_axes(record.runs))
    best = [run.best.value for run in record.runs if run.best]
    settings = [(a + b) / 2 for a, b in zip(best[::2], best[1::2], strict=True)]
    for kind, (first, second) in (("lora", settings[:2]), ("rslora", settings[2:])):
        draws = [min(pair) for pair in itertools.product((first, second), repeat=2)]
        assert curves[kind] == pytest.approx([(first + second) / 2, sum(draws) / 4])
    assert report_sweep(tmp_path).confirmed is None
    assert "](budget.png)" in (tmp_path / "sweep.md").read_text()
    assert (tmp_path / "budget.png").stat().st_size > 1000


def test_compare_shows_the_confirmation_and_the_curve(
    tmp_path: Path, made_up_runs: type[MadeUp], capsys: pytest.CaptureFixture[str]
) -> None:
    make_sweep(tmp_path / "sweep")
    found = confirmed(tmp_path / "sweep")
    page = tmp_path / "page.html"
    with pytest.raises(RunsFailed, match="8 things could not be read"):  # invented runs have no summaries
        compare(Request((tmp_path / "sweep",), html=page, json=tmp_path / "all.json"))
    assert confirmed_answer(found) in capsys.readouterr().out
    (sweep,) = json.loads((tmp_path / "all.json").read_text())["sweeps"]
    assert sweep["answer"] == confirmed_answer(found)
    assert len(sweep["expected_best"][""]) == 4
    block = page.read_text().split('<script type="application/json" id="data">')[1].split("</script>")[0]
    data = json.loads(block)
    assert confirmed_answer(found) in [answer["headline"] for answer in data["answers"]]
    assert data["sweeps"][0]["expectedBest"][""] == sweep["expected_best"][""]
    (tmp_path / "sweep" / "confirmed.json").write_text("{}")
    with pytest.raises(RunsFailed, match="9 things could not be read"):
        compare(Request((tmp_path / "sweep",)))
