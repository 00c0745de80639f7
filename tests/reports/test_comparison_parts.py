"""What the page of a comparison is made of, read as text: scripts, policy, data, and the answer it opens with."""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
import re
from dataclasses import replace

import pytest
from comparisons import EVIL, comparison_of, run_of, sweep, with_text_everywhere

from summarizer.reports.compared import Point, as_json
from summarizer.reports.html_page import (
    MOST_IN_ALL,
    PARTS,
    SCRIPTS,
    page,
    page_data,
    points_per_curve,
    thinned,
)
from summarizer.reports.sentences import answers


def test_every_script_of_the_folder_is_in_the_page() -> None:
    assert sorted(SCRIPTS) == sorted(path.name for path in PARTS.glob("*.js"))
    assert len(SCRIPTS) > 10
    made = page(sweep(4))
    for name in SCRIPTS:
        text = (PARTS / name).read_text(encoding="utf-8")
        assert text in made
        assert "</script" not in text
        assert "innerHTML" not in text


def test_the_page_names_no_address_and_its_policy_lets_nothing_else_run() -> None:
    made = page(sweep(4))
    assert set(re.findall(r"https?://[\w./]+", made)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(src|href)=(?!\"#|\"data:,\")", made)
    policy = markup.unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', made)[0])
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for kind, pattern in (("script", r"<script>(.*)</script>"), ("style", r"<style>(.*)</style>")):
        (inside,) = re.findall(pattern, made, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_text_of_runs_cannot_leave_its_block() -> None:
    plain, evil = page(sweep(4)), page(with_text_everywhere(sweep(4), EVIL))
    for tag in ("<script", "</script", "<!--", "<img"):
        assert evil.count(tag) == plain.count(tag), tag
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', evil, flags=re.DOTALL)
    assert not set("<>&") & set(block)
    assert json.loads(block)["notes"] == [EVIL]
    evil.encode()  # can be written


def test_half_a_character_in_a_broken_file_does_not_keep_the_json_from_being_written() -> None:
    written = as_json(with_text_everywhere(sweep(4), EVIL)).encode()
    assert json.loads(written)["notes"] == [EVIL]


def test_numbers_that_json_has_not_are_null() -> None:
    run = run_of({})
    broken = replace(
        run,
        history={"train/loss": (Point(1, 2.0), Point(2, float("nan")), Point(3, float("inf")))},
        record=run.record.model_copy(update={"wall_s": float("inf")}),
    )
    (made,) = page_data(comparison_of([broken]))["runs"]
    assert made["history"]["train/loss"]["values"] == [2.0, None, None]
    assert made["numbers"]["time"] is None
    page(comparison_of([broken]))


def test_long_curves_are_averaged_and_say_so() -> None:
    points = [Point(step, float(step)) for step in range(1, 1001)]
    few = thinned(points, 100)
    assert few["meanOf"] == 10
    assert few["steps"][0] == 10
    assert few["values"][0] == pytest.approx(5.5)  # the mean of 1 to 10
    assert (few["steps"][-1], few["values"][-1]) == (1000, 1000.0)
    assert len(few["steps"]) == 101
    assert thinned(points[:100], 100) == {
        "steps": list(range(1, 101)),
        "values": [float(i) for i in range(1, 101)],
        "meanOf": 1,
    }
    assert 600 * points_per_curve(sweep(200).runs) <= 1.01 * MOST_IN_ALL


def test_the_heading_answers_and_the_next_line_says_how_sure() -> None:
    (answer,) = answers(sweep(4))
    assert answer.headline.startswith(
        "adapter.dim=8 optimizer.lr=1e-4 has the highest ROUGE-Lsum of 3 runs, "
    )
    assert answer.headline.endswith(" on 100 validation rows.")
    for part in ("Its lead over the next, ", "95 % interval", "p = ", "Lead-3 30.45", "the base model 15.74"):
        assert part in answer.certainty
    assert "not significant" in answer.certainty
    assert re.search(r"p = 0\.\d+, after Holm 0\.\d+\)", answer.certainty), (
        "the p of the interval, and what decides"
    )
    runs = [run_of({"adapter.dim": "2"}, lsum=20), run_of({"adapter.dim": "8"}, lsum=29)]
    (clear,) = answers(comparison_of(runs))
    assert "p < 0.001" in clear.certainty
    assert "not significant" not in clear.certainty


def test_the_heading_of_a_loss_of_one_run_and_of_none() -> None:
    (by_loss,) = answers(sweep(4, "val/loss"))
    assert "has the lowest loss of 3 runs, " in by_loss.headline
    assert " higher. In ROUGE-Lsum the best minus the next is " in by_loss.certainty
    assert "behind the base model" not in by_loss.certainty
    runs = [run_of({"adapter.dim": "2"}, loss=2.2, lsum=15), run_of({"adapter.dim": "8"}, loss=2.3, lsum=29)]
    (worse,) = answers(comparison_of(runs, "val/loss"))
    assert worse.certainty.endswith(
        "By ROUGE-Lsum its summaries are behind the base model's, 15.00 to 15.74."
    )
    (alone,) = answers(sweep(1))
    assert " reached ROUGE-Lsum " in alone.headline
    assert "No other run" in alone.certainty
    (none,) = answers(comparison_of([run_of({"seed": str(i)}, status="failed") for i in range(2)]))
    assert none.headline == "None of the 2 runs has a final score."
