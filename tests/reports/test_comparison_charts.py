"""The table, the charts and the summaries of the page, as they are used in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from comparisons import LEAD3, ROWS, comparison_of, run_of, scores, sweep
from page_driving import Open, choose, lines, one, press, texts

from summarizer.reports.compared import RowSet


def test_the_table_sorts_by_click_and_by_key(opened: Open) -> None:
    from selenium.webdriver.common.keys import Keys

    comparison = sweep(12)
    runs = comparison.runs
    browser = opened(comparison)

    def order() -> list[int]:
        found: list[int] = browser.execute_script(
            "const [body] = document.querySelector('#tables table').tBodies;"
            "return [...body.rows].map((row) => Number(row.dataset.run))"
        )
        return found

    heads = {
        head.text.split("\n")[0].rstrip(" ▲▼"): head
        for head in browser.find_elements("css selector", "#tables .scroller:first-child thead th")
    }
    assert list(heads)[1:4] == ["run", "ROUGE-Lsum", "behind the best"]
    scored = [i for i, run in enumerate(runs) if run.scores]
    assert order() == scored
    assert heads["ROUGE-Lsum"].get_attribute("aria-sort") == "descending"
    assert heads["run"].get_attribute("aria-sort") is None
    heads["loss"].find_element("tag name", "button").click()
    losses = {i: run.scores.loss for i, run in enumerate(runs) if run.scores and run.scores.loss is not None}
    by_loss = sorted(scored, key=losses.__getitem__)
    assert order() == by_loss
    assert heads["loss"].get_attribute("aria-sort") == "ascending"
    assert heads["ROUGE-Lsum"].get_attribute("aria-sort") is None
    heads["loss"].find_element("tag name", "button").send_keys(Keys.ENTER)
    assert order() == by_loss[::-1]
    assert heads["loss"].get_attribute("aria-sort") == "descending"
    rows = texts(browser, "#tables .scroller:first-child .systems tr")
    assert rows[0].startswith("base model15.74")
    assert rows[1].startswith("Lead-3")
    heads["behind the best"].find_element("tag name", "button").click()
    assert order()[-1] == 0, "the best is behind nobody and stands last"


def test_of_many_settings_three_stand_beside_the_scores_and_nothing_is_cut(opened: Open) -> None:
    runs = [
        replace(
            run_of({f"adapter.k{key}": str(dim * key) for key in range(1, 9)}, lsum=20 + dim, seed=dim),
            name=f"run {dim}",
        )
        for dim in (1, 2, 3)
    ]
    runs[1] = replace(runs[1], lead3=replace(LEAD3, loss=1.0), base=scores(2.5, 14.0))
    browser = opened(comparison_of(runs))
    heads = [text.split("\n")[0] for text in texts(browser, "#tables thead .sort > span")]
    seen = browser.execute_script(
        "return [...document.querySelectorAll('#tables thead th')].filter((one) => one.offsetParent)"
        ".map((one) => one.innerText.split('\\n')[0].replace(/ [▲▼]/, ''))"
    )
    scores_ = ["ROUGE-Lsum", "behind the best", "loss", "ROUGE-1", "ROUGE-2", "ROUGE-L"]
    assert seen[1:] == ["run", *scores_, *(f"adapter.k{key}" for key in (1, 2, 3))]
    assert set(heads) - set(seen) == {
        *("status", *(f"adapter.k{key}" for key in (4, 5, 6, 7, 8))),
        *("time", "tokens per second", "peak memory", "trainable parameters"),
    }
    press(browser, "#tables .unfold")
    assert one(browser, "#tables .unfold").get_attribute("aria-expanded") == "true"
    unfolded = "return [...document.querySelectorAll('#tables thead th')].every((one) => one.offsetParent)"
    assert browser.execute_script(unfolded)
    systems = texts(browser, "#tables .systems th")
    assert [name for name in systems if name.startswith("Lead-3")] == ["Lead-3"]
    assert len([name for name in systems if name.startswith("base model")]) == 2
    assert one(browser, "#curves-color").get_attribute("value") == "run"
    past = browser.execute_script(
        "const box = document.querySelector('#parallel-chart .scroller'); return box.scrollWidth - box.clientWidth"
    )
    assert past == 0


def test_boxes_take_runs_out_of_all_charts(opened: Open) -> None:
    browser = opened(sweep(16))
    everywhere = ("#curves-charts .panel:nth-child(2)", "#parallel-chart", "#scatter-chart", "#heatmap-chart")
    scored = [run for run in range(16) if run != 15]  # the failed one stands last
    for chart in everywhere[:3]:
        assert lines(browser, chart) == scored
    press(browser, "tr[data-run='2'] input")
    for chart in everywhere:
        assert 2 not in lines(browser, chart), chart
        assert 1 in lines(browser, chart), chart
    assert one(browser, "#shown").text == "15 of 16 runs shown."
    press(browser, "input[name='filter-adapter.dim']")  # dim 2
    left = texts(browser, "tr:not([hidden]) th button.name")
    assert left
    assert not any("dim=2 " in name for name in left)
    assert len(lines(browser, "#curves-charts .panel:first-child")) == 11
    everyone = one(browser, "#tables .scroller:first-child thead input")
    everyone.click()  # some are on: none
    assert "None of the runs" in one(browser, "#parallel-chart").text
    everyone.click()
    assert 2 in lines(browser, "#parallel-chart") or "dim=2 " in sweep(16).runs[2].name


def test_the_heat_map_shows_any_two_settings_and_any_metric(opened: Open) -> None:
    comparison = sweep(30)  # two seeds
    browser = opened(comparison)
    cells = "#heatmap-chart .in-cell"

    def expected(metric: Callable[[Any], float], better: Callable[..., float], *keys: str) -> set[str]:
        groups: dict[tuple[str, ...], list[float]] = {}
        for run in comparison.runs:
            if run.scores and run.record.status == "completed":
                groups.setdefault(tuple(run.config[key].text for key in keys), []).append(metric(run.scores))
        return {f"{better(values):.2f}" for values in groups.values()}

    dims_and_rates = expected(lambda s: s.rouge["rougeLsum"].value, max, "adapter.dim", "optimizer.lr")
    assert {text for text in texts(browser, cells) if text[0].isdigit()} == dims_and_rates
    choose(browser, "#heatmap-metric", "ROUGE-1 (F1, percent)")
    rate_and_dim = [
        one(browser, f"#{chart}-{axis}").get_attribute("value")
        for chart in ("heatmap", "scatter")
        for axis in "xy"
    ]
    assert rate_and_dim == ["1", "0", "s1", "s0"], "both charts open on the same two"
    choose(browser, "#heatmap-x", "seed")
    dims_and_seeds = expected(lambda s: s.rouge["rouge1"].value, max, "adapter.dim", "seed")
    assert {text for text in texts(browser, cells) if text[0].isdigit()} == dims_and_seeds
    choose(browser, "#heatmap-y", "seed")  # the two change places
    assert one(browser, "#heatmap-x").get_attribute("value") == "0"
    assert {text for text in texts(browser, cells) if text[0].isdigit()} == dims_and_seeds


def test_summaries_of_an_article_stand_side_by_side(opened: Open) -> None:
    comparison = sweep(4)
    browser = opened(comparison)
    first, second, third = (run for run in comparison.runs if run.scores)
    row = comparison.rows[ROWS][0]
    assert texts(browser, ".card h3") == ["Reference", first.name, second.name, third.name, "Base model"]
    assert texts(browser, ".card .summary") == [
        row.reference,
        *(run.predictions[row.id].text for run in (first, second, third)),
        first.base_predictions[row.id].text,
    ]
    shown = texts(browser, ".card:nth-child(2) dd")
    assert shown == [f"{value:.1f}" for value in first.predictions[row.id].rouge.values()]
    press(browser, "#predictions-controls button:last-of-type")
    assert texts(browser, ".card .summary")[1] == first.predictions[comparison.rows[ROWS][1].id].text
    assert "2 of 8" in browser.execute_script("return by('article').selectedOptions[0].text")
    press(browser, "#predictions-controls button")
    press(browser, "#predictions-controls button")
    assert "8 of 8" in browser.execute_script("return by('article').selectedOptions[0].text")
    press(browser, "tr[data-run='1'] input")
    assert texts(browser, ".card h3") == ["Reference", first.name, third.name, "Base model"]


def test_scores_of_different_rows_never_meet(opened: Open) -> None:
    other = RowSet("test", 50, "b" * 64)
    runs = [run_of({"adapter.dim": str(dim)}, lsum=20 + dim, seed=dim) for dim in (2, 4, 8)]
    runs += [run_of({"adapter.dim": str(dim)}, lsum=30 + dim, row_set=other, seed=dim) for dim in (16, 32)]
    browser = opened(comparison_of(runs))
    assert len(texts(browser, "#more-answers p")) == 1
    tables = [
        browser.execute_script("return [...arguments[0].querySelectorAll('tr[data-run]')].length", table)
        for table in browser.find_elements("css selector", "#tables table")
    ]
    assert tables == [3, 2]
    charts = ("#curves-charts", "#parallel-chart")
    assert [lines(browser, chart) for chart in charts] == [[0, 1, 2]] * 2
    choose(browser, "#row-set", "test, 50 rows")
    assert [lines(browser, chart) for chart in charts] == [[3, 4]] * 2
    assert texts(browser, ".card h3")[1] == "adapter.dim=32"
    press(browser, "tr[data-run='1'] button.name")
    assert [lines(browser, chart) for chart in charts] == [[0, 1, 2]] * 2, (
        "a highlighted run brings its rows along"
    )


def test_dots_are_seen_on_dark_paper(opened: Open) -> None:
    browser = opened(sweep(12))
    for _ in range(2):  # light, then dark
        press(browser, "#theme")
    assert one(browser, "#theme").text == "Colors: dark"
    luminances: list[float] = browser.execute_script(
        "const light = (color) => color.match(/\\d+/g).slice(0, 3).map((value) => value / 255)"
        ".map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))"
        ".reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);"
        "const dots = [...document.querySelectorAll('#scatter-chart .dot:not([fill=none])')];"
        "return [document.body, ...dots].map((one) => light(getComputedStyle(one)[one === document.body"
        " ? 'backgroundColor' : 'fill']))"
    )
    paper, *dots = luminances
    assert len(dots) > 5
    assert min((dot + 0.05) / (paper + 0.05) for dot in dots) >= 3, "WCAG 2.2, 1.4.11"


def test_a_table_that_is_wider_than_the_window_says_so(opened: Open) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    browser = opened(sweep(12))
    said = one(browser, "#tables .sideways")
    before = browser.get_window_size()
    try:
        for width, shown in ((700, True), (2600, False)):
            browser.set_window_size(width, 900)
            WebDriverWait(browser, 20).until(lambda _, shown=shown: said.is_displayed() == shown)
    finally:
        browser.set_window_size(before["width"], before["height"])


def test_losses_during_training_of_runs_without_scores_stand_beside_the_others(opened: Open) -> None:
    """Where they are of the same validation rows: those are named by the data's config."""
    nothing = {"row_set": None, "scores": None, "base": None, "lead3": None, "predictions": {}}
    finished = run_of({"adapter.dim": "2", "data.validation": "rows.jsonl"})
    alike = run_of({"adapter.dim": "4", "data.validation": "rows.jsonl"}, status="stopped", seed=1)
    other = run_of({"adapter.dim": "8", "data.validation": "others.jsonl"}, status="stopped", seed=2)
    browser = opened(comparison_of([finished, replace(alike, **nothing), replace(other, **nothing)]))
    assert lines(browser, "#curves-charts .panel:first-child") == [0, 1, 2]
    assert lines(browser, "#curves-charts .panel:last-child") == [0, 1]
    assert "1 run left out" in one(browser, "#curves-charts .panel:last-child").text
