from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from synthetic_sweep import end_of, make_grid, make_run, plan

from summarizer.evaluation.record import VARIANTS, Interval
from summarizer.reports.curves import draw_curves, keys_of_styles, read_curve, smooth
from summarizer.reports.heatmap import draw_heatmap, layout_of
from summarizer.reports.sentences import saving
from summarizer.reports.sweep_report import report_sweep
from summarizer.reports.sweep_tables import plain_rows
from summarizer.runs.record import BaseScores
from summarizer.runs.settings import sweep_axes
from summarizer.sweeps.record import collect, read_sweep

pytestmark = pytest.mark.versions

ESCAPED = re.compile(r"\\(.)")


def table_of(markdown: str) -> list[dict[str, str]]:
    """The rows of a Markdown table by its headings, without emphasis and escapes."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = [
        [ESCAPED.sub(r"\1", cell.strip().strip("*")) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines
    ]
    assert len({len(row) for row in cells}) == 1
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def runs_of(markdown: str) -> list[dict[str, str]]:
    """Those that are runs'."""
    return [row for row in table_of(markdown) if row["run"].startswith("[")]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def drawn(sweep: Path) -> Figure:
    record = collect(sweep)
    return draw_heatmap(record, sweep_axes(record.runs))


def test_a_sweep_leaves_its_table_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_grid(tmp_path, failed=(2, 11), stopped=(0, 9))
    record = report_sweep(tmp_path)
    assert json.loads((tmp_path / "sweep.json").read_text()) == json.loads(record.model_dump_json())
    text = (tmp_path / "sweep.md").read_text()
    assert text.startswith("# Which adapter.dim and optimizer.lr give the lowest validation loss?\n")
    assert (
        "python -m summarizer.run -m data=sample adapter.dim=2,4,8,16 optimizer.lr=1e-4,3e-4,1e-3\n" in text
    )
    rows = runs_of(text)
    assert len(rows) == 12
    assert rows[0]["rank"] == "1"
    assert (rows[0]["run"], rows[0]["adapter.dim"], rows[0]["optimizer.lr"]) == ("[7](7/)", "8", "3e-4")
    assert float(rows[0]["best validation loss"]) == pytest.approx(end_of(8, 3e-4), abs=0.03)
    assert rows[0]["rougeLsum test, 50 rows"] == "27.70 (25.7–29.7)"
    assert [row["status"] for row in rows[8:]] == ["stopped, step 10"] * 2 + ["failed, step 12"] * 2
    assert [row["rank"] for row in rows[8:]] == ["9", "10", "", ""]
    assert "data" not in rows[0]  # what all runs share is no column
    for heading in rows[0]:
        assert not heading.startswith("rouge") or re.fullmatch(r"rouge(1|2|L|Lsum) test, 50 rows", heading)
    assert "A stopped run did not train to its end" in text
    assert "successive halving saved 240 (" in text
    assert text.count("NonFiniteLossError: the loss of step 12 is nan") == 2
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (tmp_path / link).exists()
    for name in ("heatmap.png", "curves.png"):
        picture = matplotlib.image.imread(tmp_path / name)
        assert picture.shape[0] > 500
        assert len(np.unique(picture[..., :3] @ [1.0, 10.0, 100.0])) > 20
    assert not list(tmp_path.glob(".writing-*"))
    shown = capsys.readouterr().err
    assert "Best: adapter.dim=8 optimizer.lr=3e-4: 2.3" in shown
    assert "…" not in shown  # a file has no width to keep to
    assert f" -m summarizer.compare {shlex.quote(str(tmp_path))} --html " in shown
    assert shown.index("completed") < shown.index("stopped, step 10") < shown.index("failed, step 12")


def test_an_unfinished_sweep_is_reported_too(tmp_path: Path) -> None:
    plan(tmp_path, [["adapter.dim=2"], ["adapter.dim=4"]])
    assert report_sweep(tmp_path).winner is None
    assert "\nNo run has been evaluated.\n" in (tmp_path / "sweep.md").read_text()
    make_run(tmp_path / "1", ["adapter.dim=4"], end=2.0, steps=10, status="failed", summary={"error": "x"})
    report_sweep(tmp_path)
    assert "\nNo run that was evaluated came to an end.\n" in (tmp_path / "sweep.md").read_text()
    shutil.rmtree(tmp_path / "1")
    make_run(tmp_path / "0", ["adapter.dim=2"], end=2.0, steps=10, status="stopped")
    report_sweep(tmp_path)
    text = (tmp_path / "sweep.md").read_text()
    assert "Best so far (no run has completed): adapter.dim=2" in text
    assert "Trained on 40 samples; successive halving saved 120." in text
    assert [row["status"] for row in runs_of(text)] == ["stopped, step 10", "waiting"]


def scores(rouge: float) -> dict[str, Interval]:
    return dict.fromkeys(VARIANTS, Interval(rouge, rouge - 1, rouge + 1))


def test_the_base_and_lead_3_stand_beside_the_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that failed before it was scored knows the base's loss at step 0 alone."""
    plan(tmp_path, [["a=0"], ["a=1"], ["a=2"]])
    measured = {"base": BaseScores(val_loss=2.75, rouge=scores(20.0)), "baseline": scores(25.5)}
    for number in range(2):
        make_run(tmp_path / str(number), [f"a={number}"], end=2.0 + number / 10, summary=measured)
    make_run(tmp_path / "2", ["a=2"], end=5.0, steps=12, status="failed", summary={"error": "OSError: full"})
    record = report_sweep(tmp_path)
    assert read_sweep(tmp_path) == record
    assert [(one.system, one.runs) for one in record.references] == [
        ("base model", ("0", "1", "2")),
        ("Lead-3", ("0", "1")),
    ]
    assert [run.folder for run in record.ranked()] == ["0", "1", "2"]
    base, lead = table_of((tmp_path / "sweep.md").read_text())[3:]
    assert (base["rank"], base["run"], base["a"], base["status"]) == ("", "base model", "", "")
    assert (base["best validation loss"], base["at step"]) == ("3.000", "0")
    assert (base["loss test, 50 rows"], base["rougeL test, 50 rows"]) == ("2.750", "20.00 (19.0–21.0)")
    assert (lead["run"], lead["best validation loss"], lead["loss test, 50 rows"]) == ("Lead-3", "", "")
    assert lead["rouge1 test, 50 rows"] == "25.50 (24.5–26.5)"
    shown = capsys.readouterr().err
    assert re.search(r"3\.000 +base model +20\.00 \(19\.0–21\.0\)", shown)
    assert re.search(r"Lead-3 +25\.50", shown)
    assert "without a rank: base model: the model without an adapter; Lead-3: the first three" in shown


def test_a_sweep_of_an_earlier_version_is_read_with_the_base_models_name_of_now(tmp_path: Path) -> None:
    plan(tmp_path, [["a=0"]])
    measured = {"base": BaseScores(val_loss=2.75, rouge=scores(20.0)), "baseline": scores(25.5)}
    make_run(tmp_path / "0", ["a=0"], end=2.0, summary=measured)
    record = report_sweep(tmp_path)
    file = tmp_path / "sweep.json"
    file.write_text(file.read_text().replace('"base model"', '"base alone"'))
    assert read_sweep(tmp_path) == record


def test_bases_of_different_models_are_told_apart(tmp_path: Path) -> None:
    runs = [[f"model={model}", f"seed={seed}"] for model in "ab" for seed in (1, 2)]
    plan(tmp_path, runs)
    for number, overrides in enumerate(runs):
        untrained = 3.0 + number // 2
        measured = {"base": BaseScores(val_loss=untrained, rouge=scores(20.0)), "baseline": scores(25.5)}
        make_run(tmp_path / str(number), overrides, end=2.0, untrained=untrained, summary=measured)
    report_sweep(tmp_path)
    rows = table_of((tmp_path / "sweep.md").read_text())[4:]
    assert [(row["run"], row["model"], row["seed"], row["best validation loss"]) for row in rows] == [
        ("base model", "a", "", "3.000"),
        ("base model", "b", "", "4.000"),
        ("Lead-3", "", "", ""),
    ]


def test_a_grid_with_failures_is_not_called_full(tmp_path: Path) -> None:
    plan(tmp_path, [["a=0"], ["a=1"]])
    make_run(tmp_path / "0", ["a=0"], end=2.0)
    make_run(tmp_path / "1", ["a=1"], end=2.0, steps=10, status="failed", summary={"error": "OSError: full"})
    assert saving(collect(tmp_path)) == "Trained on 200 samples."
    make_run(tmp_path / "1", ["a=1"], end=2.0)
    assert saving(collect(tmp_path)) == "Trained on 320 samples, the full grid."


def test_text_of_users_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = ["'a|b'", "'<b>*x*</b> `y` [red]$z$ grün'"]
    runs = [[f"prompt.template={value}", f"seed={seed}"] for value in values for seed in (1, 2)][:3]
    plan(tmp_path, runs)
    for number, overrides in enumerate(runs):
        error = {"error": "ValueError: [bold]a|b\nc\x1b[31m"} if number == 2 else {}
        status = "failed" if number == 2 else "completed"
        make_run(tmp_path / str(number), overrides, end=2.0 + number, status=status, summary=error)
    report_sweep(tmp_path)
    text = (tmp_path / "sweep.md").read_text()
    rows = runs_of(text)
    assert [row["prompt.template"] for row in rows] == ["a|b", "a|b", "<b>*x*</b> `y` [red]$z$ grün"]
    # No full grid: a command for both seeds of the one value, and one for the one seed of the other.
    assert text.count("python -m summarizer.run -m 'prompt.template=") == 1
    assert text.count("python -m summarizer.run 'prompt.template=") == 1
    shown = capsys.readouterr().err
    assert "[red]$z$ grün" in shown
    assert "[bold]a|b c [31m" in shown
    assert "\x1b" not in shown + text


def expanded(command: str) -> list[tuple[str, ...]]:
    """The overrides of each run of a command, in no order."""
    overrides = [
        word for word in shlex.split(command.removeprefix("python -m summarizer.run ")) if word != "-m"
    ]
    keys = [override.partition("=")[0] for override in overrides]
    values = [override.partition("=")[2].split(",") for override in overrides]
    return [
        tuple(sorted(f"{key}={value}" if value else key for key, value in zip(keys, one, strict=True)))
        for one in itertools.product(*values)
    ]


def commands_of(tmp_path: Path, runs: list[list[str]]) -> list[str]:
    plan(tmp_path, runs)
    for number, overrides in enumerate(runs):
        make_run(tmp_path / str(number), overrides, end=2.0)
    report_sweep(tmp_path)
    return [line for line in (tmp_path / "sweep.md").read_text().splitlines() if line.startswith("python -m")]


@pytest.mark.parametrize("seed", range(4))
def test_the_commands_of_added_points_make_each_run_once(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    grid = itertools.product(("lora", "dora"), (2, 8, 32), ("1e-4", "3e-4"))
    runs = [["data=sample", f"adapter={k}", f"adapter.dim={d}", f"optimizer.lr={r}"] for k, d, r in grid]
    runs = [run for run in runs if generator.random() < 0.7]
    runs += [
        ["data=sample", "optimizer.lr=1e-2", f"adapter={kind}", "~trainer.max_steps"]
        for kind in ("ia3", "oft")
    ]
    generator.shuffle(runs)
    made = [run for command in commands_of(tmp_path, runs) for run in expanded(command)]
    assert sorted(made) == sorted(tuple(sorted(run)) for run in runs)


def test_points_added_as_a_grid_are_one_command(tmp_path: Path) -> None:
    first = [["seed=0", f"adapter.dim={d}", f"optimizer.lr={r}"] for d in (2, 8) for r in ("1e-4", "1e-3")]
    added = [["seed=0", "adapter=ia3", f"optimizer.lr={r}"] for r in ("3e-3", "1e-2")]
    more = [["seed=0", "adapter.dim=32", "optimizer.lr=3e-3"]]
    assert commands_of(tmp_path, first + added + more) == [
        "python -m summarizer.run -m seed=0 adapter.dim=2,8 optimizer.lr=1e-4,1e-3",
        "python -m summarizer.run -m seed=0 adapter=ia3 optimizer.lr=3e-3,1e-2",
        "python -m summarizer.run seed=0 adapter.dim=32 optimizer.lr=3e-3",
    ]


def test_plain_rows_hold_numbers(tmp_path: Path) -> None:
    make_grid(tmp_path, stopped=(0,))
    record = collect(tmp_path)
    columns, rows = plain_rows(record, sweep_axes(record.runs))
    first: dict[str, Any] = dict(zip(columns, rows[0], strict=True))
    assert (first["adapter.dim"], first["optimizer.lr"], first["rank"]) == (8.0, 3e-4, 1)
    assert dict(zip(columns, rows[-1], strict=True))["rouge1 test, 50 rows"] is None
    for column in zip(*rows, strict=True):
        assert len({isinstance(cell, str) for cell in column if cell is not None}) == 1


def test_each_cell_of_the_heat_map_says_what_its_run_reached(tmp_path: Path) -> None:
    make_grid(tmp_path, failed=(2,), stopped=(9,))
    record = collect(tmp_path)
    figure = drawn(tmp_path)
    best = {run.folder: f"{run.best.value:.3f}" for run in record.runs if run.best}
    expected = [best[str(number)] for number in range(12) if number not in (2, 9)]
    assert sorted(texts(figure)) == sorted([*expected, "×\nfailed", f"{best['9']}\nstopped\nat step 10"])
    axes = figure.axes[0]
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert places["×\nfailed"] == (2, 0)  # rate 1e-3, dim 2
    assert places[best["7"]] == (1, 2)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1e-4", "3e-4", "1e-3"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2", "4", "8", "16"]
    outlined = [patch for patch in axes.patches if not patch.get_fill()]
    assert {tuple(np.round(patch.get_xy(), 2)) for patch in outlined} == {(0.54, 1.54)}  # around the best


def test_a_third_key_has_panels_and_further_ones_are_named(tmp_path: Path) -> None:
    keys = {"a": (1, 2, 3), "b": (1, 2), "c": ("x", "y"), "seed": (1, 2, 3)}
    runs = [[f"a={a}", f"b={b}", f"c={c}"] for a in keys["a"] for b in keys["b"] for c in keys["c"]]
    plan(tmp_path / "three", runs)
    for number, overrides in enumerate(runs):
        make_run(tmp_path / "three" / str(number), overrides, end=2 + number / 20)
    figure = drawn(tmp_path / "three")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["c = x", "c = y"]
    assert len(texts(figure)) == 12
    more = [[*overrides, f"seed={seed}"] for seed in keys["seed"] for overrides in runs]
    plan(tmp_path / "four", more)
    for number, overrides in enumerate(more):
        make_run(tmp_path / "four" / str(number), overrides, end=2 + (number * 7 % 36) / 20)
    record = collect(tmp_path / "four")
    layout = layout_of(sweep_axes(record.runs))
    assert layout is not None
    assert (layout.x, layout.y, layout.panels, layout.best_over) == ("a", "b", None, ("c", "seed"))
    figure = drawn(tmp_path / "four")
    assert "best over c, seed" in figure.get_supxlabel()
    values = {(run.overrides[0], run.overrides[1]): [] for run in record.runs}
    for run in record.runs:
        assert run.best is not None
        values[run.overrides[0], run.overrides[1]].append(run.best.value)
    assert sorted(texts(figure)) == sorted(f"{min(found):.3f}" for found in values.values())


def test_each_kind_of_adapter_has_its_own_heat_map(tmp_path: Path) -> None:
    kinds = ("lora", "dora", "miss", "oft", "ia3")
    runs = [
        [f"adapter={kind}", f"optimizer.lr={lr}", f"adapter.dim={dim}", f"seed={seed}"]
        for kind, lr, dim, seed in itertools.product(kinds, (0.1, 0.2), (2, 4, 8), (0, 1))
    ]
    plan(tmp_path, runs)
    for number, overrides in enumerate(runs):
        make_run(tmp_path / str(number), overrides, end=2 + (number * 7 % 60) / 60)
    figure = drawn(tmp_path)
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible() and axes.get_title()]
    assert titles == [f"adapter = {kind}" for kind in sorted(kinds)]
    assert "best over seed" in figure.get_supxlabel()
    assert len(texts(figure)) == 30


def test_a_kind_s_heat_map_has_the_values_that_it_was_tried_with(tmp_path: Path) -> None:
    rates = {"lora": (1e-3, 3e-3), "miss": (1e-5, 1e-4), "ia3": (1e-2,)}
    runs = [
        [f"adapter={kind}", f"optimizer.lr={lr}", f"adapter.dim={dim}"]
        for kind, own in rates.items()
        for lr, dim in itertools.product(own, (2, 8) if kind != "ia3" else (2,))
    ]
    plan(tmp_path, runs)
    for number, overrides in enumerate(runs):
        make_run(tmp_path / str(number), overrides, end=2 + number / 20)
    figure = drawn(tmp_path)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    shown = {
        title.removeprefix("adapter = "): [text.get_text() for text in axes.get_xticklabels()]
        for title, axes in panels.items()
    }
    assert shown == {"ia3": ["0.01"], "lora": ["0.001", "0.003"], "miss": ["1e-05", "0.0001"]}
    assert "–" not in texts(figure), "no cell is empty"
    assert len(texts(figure)) == len(runs)


def test_one_key_is_drawn_as_points_and_sampled_values_to_scale(tmp_path: Path) -> None:
    plan(tmp_path / "one", [[f"adapter.dim={dim}"] for dim in (16, 2, 4)])
    for number, dim in enumerate((16, 2, 4)):
        status = "failed" if dim == 4 else "completed"
        make_run(tmp_path / "one" / str(number), [f"adapter.dim={dim}"], end=end_of(dim, 3e-4), status=status)
    axes = drawn(tmp_path / "one").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "4", "16"]
    assert "×\nfailed" in [text.get_text() for text in axes.texts]
    sampled = [[f"adapter.dim={2 + i % 2}", f"optimizer.lr={10 ** (-5 + i / 7)}"] for i in range(14)]
    plan(tmp_path / "sampled", sampled)
    for number, overrides in enumerate(sampled):
        make_run(tmp_path / "sampled" / str(number), overrides, end=2 + number / 20)
    axes = drawn(tmp_path / "sampled").axes[0]
    assert axes.get_xscale() == "log"
    xs = sorted(float(line.get_xdata()[0]) for line in axes.lines)
    assert xs == pytest.approx([10 ** (-5 + i / 7) for i in range(14)])


def test_curves_are_smoothed_and_colored_by_what_tells_runs_apart(tmp_path: Path) -> None:
    points = [(step, float(step**2 % 7)) for step in range(1, 30)]
    values = [value for _, value in points]
    assert [value for _, value in smooth(points, 4)] == pytest.approx(
        [np.mean(values[max(0, i - 3) : i + 1]) for i in range(29)]
    )
    runs = [[f"adapter.dim={dim}", f"optimizer={name}"] for dim in (2, 4, 8) for name in ("adamw", "sgd")]
    plan(tmp_path, runs)
    for number, overrides in enumerate(runs):
        make_run(tmp_path / str(number), overrides, end=2 + 0.5 * (number % 2) + 0.01 * number)
    record = collect(tmp_path)
    found = sweep_axes(record.runs)
    assert keys_of_styles(record, found) == ("optimizer", "adapter.dim")
    figure = draw_curves(tmp_path, record, found)
    left, right = figure.axes
    assert (len(left.lines), len(right.lines)) == (6, 6)
    assert record.winner is not None
    curve = read_curve(tmp_path, record.winner)
    (thick,) = [line for line in right.lines if line.get_linewidth() > 2]
    assert list(zip(thick.get_xdata(), thick.get_ydata(), strict=True)) == curve.val
    assert len({line.get_color() for line in right.lines}) == 2


def test_what_diverges_leaves_the_picture(tmp_path: Path) -> None:
    plan(tmp_path, [["a=1"], ["a=2"], ["a=3"]])
    make_run(tmp_path / "0", ["a=1"], end=2.0)
    make_run(tmp_path / "1", ["a=2"], end=2.1)
    make_run(tmp_path / "2", ["a=3"], end=500.0, steps=20, status="failed")
    record = collect(tmp_path)
    left, right = draw_curves(tmp_path, record, sweep_axes(record.runs)).axes
    low, high = left.get_ylim()
    assert 1.5 < low < 2.3
    assert 3.0 < high < 4.5
    marks = [line for axes in (left, right) for line in axes.lines if line.get_marker() == "x"]
    assert [float(line.get_ydata()[0]) for line in marks] == [high, high]
