"""The tables of experiments/which_adapter, of sweeps whose losses are known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small_runs import REPOSITORY
from synthetic_sweep import make_run, plan

sys.path.append(str(REPOSITORY / "experiments" / "which_adapter"))
import by_kind
import by_rate

ENDS = {
    ("lora", "adapter.dim=2", "1e-3"): (2.5, 2.7),
    ("lora", "adapter.dim=2", "3e-3"): (2.3, 2.4),
    ("lora", "adapter.dim=8", "1e-3"): (2.45, 2.55),
    ("ia3", None, "3e-3"): (2.4, 2.6),
}
"""By kind, dimension and rate, what two seeds end near."""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    runs, ends = [], []
    for (kind, dim, rate), values in ENDS.items():
        for seed, end in enumerate(values):
            dims = [dim] if dim else []
            runs.append([f"adapter={kind}", *dims, f"optimizer.lr={rate}", f"seed={seed}"])
            ends.append(end)
    plan(tmp_path, runs)
    for number, (overrides, end) in enumerate(zip(runs, ends, strict=True)):
        make_run(tmp_path / str(number), overrides, end=end)
    return tmp_path


def test_the_best_of_each_kind_is_its_seeds_mean(sweep: Path) -> None:
    kinds = by_kind.by_kind([sweep])
    assert {name: (kind.runs, len(kind.settings)) for name, kind in kinds.items()} == {
        "lora": (6, 3),
        "ia3": (2, 1),
    }
    assert kinds["lora"].settings[0].name == "lora dim 2 at 3e-3"
    for name in kinds:
        best = kinds[name].settings[0]
        values = [run.best.value for run in best.runs if run.best]
        assert best.value == pytest.approx(sum(values) / 2)


def test_rates_stand_in_columns_and_the_lowest_is_bold(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["by_rate.py", str(sweep), "--step", "40"])
    by_rate.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| kind | dim | 0.001 | 0.003 |"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[:2] for row in cells] == [["ia3", "(unset)"], ["lora", "2"], ["lora", "8"]]
    best = float(cells[1][3].strip("*"))
    assert cells[1][3].startswith("**")
    assert not cells[1][2].startswith("**")
    losses = by_rate.by_rate([sweep], 40)
    assert best == pytest.approx(min(losses.values()), abs=5e-4)
    assert by_rate.by_rate([sweep], 39) == {}
