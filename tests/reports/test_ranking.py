"""The order and the colors of runs, which a sweep's heat map and the page's have in common."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_rgba
from omegaconf import OmegaConf
from page_driving import Open, choose
from synthetic_sweep import make_grid

from summarizer.reports.comparison import compare_runs
from summarizer.reports.heatmap import draw_heatmap, layout_of
from summarizer.reports.html_page import page_data
from summarizer.reports.plots import UNCOLORED
from summarizer.reports.ranking import ranking, spanning
from summarizer.runs.read_runs import read_run_files
from summarizer.runs.settings import sweep_axes
from summarizer.sweeps.record import collect


def ranked(numbers: list[float | None], statuses: list[str] | None = None, **how: Any) -> Any:
    given: dict[str, Any] = {"lower_is_better": True, "decimals": 3} | how
    return ranking(numbers, statuses or ["completed"] * len(numbers), **given)


def test_what_completed_comes_first_and_alone_has_a_color() -> None:
    found = ranked([2.0, 1.0, None, 2.5, 3.0], ["completed", "stopped", "failed", "completed", "completed"])
    assert found.order == (0, 3, 4, 1, 2)
    assert found.shares == {0: 1.0, 3: 0.5, 4: 0.0}
    assert (found.worst, found.best, found.clipped) == (3.0, 2.0, False)


def test_where_higher_is_better() -> None:
    found = ranked([20.0, 22.0, 21.0], lower_is_better=False)
    assert found.order == (1, 2, 0)
    assert found.shares == {0: 0.0, 1: 1.0, 2: 0.5}
    assert (found.worst, found.best) == (20.0, 22.0)


def test_a_value_far_off_does_not_stretch_the_colors() -> None:
    found = ranked([2.0, 2.1, 2.2, 2.3, 12.0])
    assert found.clipped
    assert found.worst == pytest.approx(2.8)
    assert found.shares[4] == 0.0
    assert found.shares[3] == pytest.approx(0.625)
    assert not ranked([2.0, 2.1, 2.2, 2.3]).clipped


def test_what_looks_the_same_has_one_color() -> None:
    assert ranked([2.0, 2.0001]).shares == {0: 1.0, 1: 1.0}
    assert set(ranked([2.0, 2.0001], decimals=4).shares.values()) == {0.0, 1.0}


def test_where_nothing_completed_all_have_a_color_and_without_a_number_none() -> None:
    assert ranked([2.0, 3.0], ["stopped", "running"]).shares == {0: 1.0, 1: 0.0}
    nothing = ranked([None, None])
    assert (nothing.order, nothing.shares, nothing.worst, nothing.best) == ((0, 1), {}, None, None)


def test_the_rate_lies_across_the_dimension_up_else_the_setting_with_most_values() -> None:
    values = {"adapter.dim": [2, 4, 8], "seed": range(9), "optimizer.lr": [1, 2], "a": [1, 2, 3, 4]}
    assert spanning(values) == ["optimizer.lr", "adapter.dim", "a", "seed"]
    del values["optimizer.lr"]
    assert spanning(values) == ["a", "adapter.dim", "seed"]


@pytest.fixture
def sweep_of_twelve(tmp_path: Path) -> Path:
    """Dimension by learning rate; one failed, one stopped."""
    make_grid(tmp_path, failed=(2,), stopped=(9,))
    for run in collect(tmp_path).runs:
        config = tmp_path / run.folder / ".hydra" / "config.yaml"
        typed = OmegaConf.from_dotlist([text for text in run.overrides if "." in text])
        OmegaConf.save(OmegaConf.merge(OmegaConf.load(config), typed), config)
        OmegaConf.save(OmegaConf.create(list(run.overrides)), config.with_name("overrides.yaml"))
    return tmp_path


Cells = dict[tuple[float, float], tuple[str, tuple[int, ...] | None]]
"""By rate and dimension: the number in a cell, without what stands beside it, and its color if it has one."""


def number_in(text: str) -> str:
    return "".join(re.findall(r"\d+\.\d+", text))


def cells_of_the_picture(sweep: Path) -> Cells:
    record = collect(sweep)
    axes = draw_heatmap(record, sweep_axes(record.runs)).axes[0]
    across, up = (
        [label.get_text() for label in labels] for labels in (axes.get_xticklabels(), axes.get_yticklabels())
    )
    texts = {text.get_position(): number_in(text.get_text()) for text in axes.texts}
    cells: Cells = {}
    for patch in axes.patches:
        if not patch.get_fill():
            continue
        i, j = (round(place + 0.5) for place in patch.get_xy())  # type: ignore[attr-defined]
        face = patch.get_facecolor()
        rgb = None if face == to_rgba(UNCOLORED) else tuple(round(255 * part) for part in face[:3])
        cells[float(across[i]), float(up[j])] = (texts[i, j], rgb)
    return cells


def test_the_page_and_the_picture_have_the_same_numbers_and_colors(
    sweep_of_twelve: Path, opened: Open
) -> None:
    record = collect(sweep_of_twelve)
    runs = [read_run_files(sweep_of_twelve / run.folder) for run in record.runs]
    comparison = compare_runs(runs, by="val/loss", with_articles=False)
    data = page_data(comparison)
    layout = layout_of(sweep_axes(record.runs))
    assert layout is not None
    assert [data["swept"][key]["key"] for key in data["spanning"][0][:2]] == [layout.x, layout.y]
    browser = opened(comparison)
    choose(browser, "#heatmap-metric", "best validation loss (cross-entropy, nats per token)")
    drawn = browser.execute_script(
        "const texts = [...document.querySelectorAll('#heatmap-chart .in-cell')].map((one) => one.textContent);"
        "return [...document.querySelectorAll('#heatmap-chart .cell')].map((one, i) => {"
        "  const run = DATA.runs[one.dataset.run];"
        "  return [valueText(run, heat.x), valueText(run, heat.y), texts[i], one.getAttribute('fill')]; })"
    )
    on_page: Cells = {
        (float(across), float(up)): (
            number_in(text),
            tuple(map(int, re.findall(r"\d+", fill))) if fill else None,
        )
        for across, up, text, fill in drawn
    }
    in_picture = cells_of_the_picture(sweep_of_twelve)
    assert len(in_picture) == 12
    assert {cell: text for cell, (text, _) in on_page.items()} == {
        cell: text for cell, (text, _) in in_picture.items()
    }
    assert sum(rgb is None for _, rgb in in_picture.values()) == 2  # of the failed and of the stopped one
    for cell, (_, rgb) in in_picture.items():
        other = on_page[cell][1]
        assert (rgb is None) == (other is None), cell
        if (
            rgb is not None and other is not None
        ):  # the page has seventeen of cividis' colors, and what lies between
            assert max(abs(a - b) for a, b in zip(rgb, other, strict=True)) <= 4, cell
