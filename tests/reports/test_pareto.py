"""Best values against trained parameters: who is on the front, and when there is a picture."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from synthetic_sweep import make_run, plan

from summarizer.reports.pareto import draw_pareto, front, sized_runs
from summarizer.reports.sweep_report import report_sweep
from summarizer.runs.settings import sweep_axes
from summarizer.sweeps.record import SweepRecord, collect


def swept(folder: Path, runs: list[tuple[str, int, float, str]]) -> SweepRecord:
    """runs: kind, parameters, loss at the end and status of each."""
    overrides = [[f"adapter={kind}", f"seed={number}"] for number, (kind, *_) in enumerate(runs)]
    plan(folder, overrides)
    for number, (_, parameters, end, status) in enumerate(runs):
        summary = {"trainable_parameters": parameters}
        make_run(folder / str(number), overrides[number], end=end, status=status, summary=summary)
    return collect(folder)


def test_the_front_is_what_nothing_smaller_beats(tmp_path: Path) -> None:
    drawn = random.Random(0)
    kinds = ["lora", "dora", "miss"]
    runs = [
        (drawn.choice(kinds), 10 ** drawn.randint(3, 6), round(drawn.uniform(2, 3), 3), "completed")
        for _ in range(20)
    ]
    record = swept(tmp_path, [*runs, ("lora", 10, 1.0, "stopped"), ("lora", 10, 1.0, "failed")])
    done = [(size, value) for size, value, run in sized_runs(record) if run.status == "completed"]
    assert len(done) == 20
    unbeaten = {
        (size, value)
        for size, value in done
        if not any(other <= size and found < value for other, found in done)
    }
    unbeaten = {point for point in unbeaten if not any(a < point[0] and b <= point[1] for a, b in unbeaten)}
    assert front(record) == sorted(unbeaten)


@pytest.mark.parametrize(
    ("sizes", "labels"),
    [
        ((200, 300), {"200", "300"}),
        ((200_000, 810_000), {"200 k", "300 k", "400 k", "500 k", "700 k"}),
        ((3_000, 90_000), {"5 k", "10 k", "20 k", "50 k", "100 k"}),
        ((500, 2_000_000), {"1 k", "10 k", "100 k", "1 M"}),
    ],
)
def test_sizes_have_a_few_plain_labels(sizes: tuple[int, int], labels: set[str], tmp_path: Path) -> None:
    record = swept(tmp_path, [("lora", size, 2.5, "completed") for size in sizes])
    figure = draw_pareto(record, sweep_axes(record.runs))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    ticks = [*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks()]
    assert {
        tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_text()
    } == labels


def test_runs_of_two_sizes_have_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = swept(
        tmp_path,
        [("lora", 200, 2.5, "completed"), ("dora", 300, 2.4, "completed"), ("dora", 300, 9.0, "stopped")],
    )
    figure = draw_pareto(record, sweep_axes(record.runs))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["dora", "lora"]
    assert "Runs outside the picture: 1." in figure.get_supxlabel()
    report_sweep(tmp_path)
    assert (tmp_path / "pareto.png").stat().st_size > 1000
    assert "](pareto.png)" in (tmp_path / "sweep.md").read_text()
    assert "pareto.png" in capsys.readouterr().err


def test_runs_of_one_size_have_none(tmp_path: Path) -> None:
    record = swept(tmp_path, [("lora", 200, 2.5, "completed"), ("rslora", 200, 2.4, "completed")])
    assert sized_runs(record) == []
    report_sweep(tmp_path)
    assert not (tmp_path / "pareto.png").exists()
