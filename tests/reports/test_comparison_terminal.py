"""What a person sees of a comparison, at a terminal of some width."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from invented_runs import make_run, without_scores
from rich.console import Console

from summarizer.reports.compared import Comparison
from summarizer.reports.comparison import compare_runs
from summarizer.reports.comparison_tables import print_comparison
from summarizer.runs.read_runs import read_run_files


def compared(*folders: Path) -> Comparison:
    runs = [read_run_files(folder) for folder in folders]
    return compare_runs(runs, by="val/loss", with_articles=False, problems={"gone": "no such folder"})


def printed(comparison: Comparison, width: int | None) -> list[str]:
    """width: None is a pipe."""
    file = io.StringIO()
    print_comparison(
        comparison, Console(file=file, width=width, force_terminal=width is not None, color_system=None)
    )
    return [line.rstrip() for line in file.getvalue().splitlines()]


def table(lines: list[str]) -> list[str]:
    """The first table: its headings and rows."""
    rule = next(i for i, line in enumerate(lines) if re.fullmatch("─+", line))
    end = next(i for i in range(rule, len(lines)) if " loss" in lines[i] or "No room" in lines[i])
    return lines[1:end]


@pytest.fixture
def two(tmp_path: Path) -> Comparison:
    one = make_run(tmp_path / "one", ["adapter.dim=2", "optimizer.lr=1e-4"], loss=2.0, likeness=0.9, seed=1)
    other = make_run(
        tmp_path / "two", ["adapter.dim=16", "optimizer.lr=3e-3"], loss=2.5, likeness=0.2, seed=2
    )
    return compared(one, other)


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_tables_keep_to_the_width_and_nothing_in_them_is_cut(two: Comparison, width: int) -> None:
    lines = printed(two, width)
    rows = table(lines)
    assert max(map(len, rows)) <= width
    text = "\n".join(rows)
    assert "…" not in text
    for words in ("dim=2 lr=0.0001", "dim=16 lr=0.003", "2.000", "2.500", "base model", "4.000", "Lead-3"):
        assert words in text, words
    left_out = next((line for line in lines if line.startswith("No room for: ")), "")
    headings = rows[0].split() + rows[1].split()
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum", "time", "memory", "tokens/s", "steps"):
        assert (name in headings) != bool(re.search(rf"[: ]{name}\b(?!sum)", left_out)), name


def test_a_pipe_has_every_column_and_bounds_beside_values(two: Comparison) -> None:
    lines = printed(two, None)
    assert not any("No room" in line for line in lines)
    (row,) = [line for line in lines if re.match(r"dim=16 lr=0.003 +2\.500", line)]
    scores = two.runs[1].scores
    assert scores is not None
    rouge = scores.rouge["rouge1"]
    assert f"{rouge.value:.2f} ({rouge.low:.1f}–{rouge.high:.1f})" in row
    difference = two.against_best["dim=16 lr=0.003"]["rougeLsum"]
    assert difference.mean.value > 0
    assert f" +{difference.mean.value:.2f} (p " in row
    assert any(f"the best minus the next is +{difference.mean.value:.2f} (95 %" in line for line in lines)
    assert any("behind the best" in line for line in lines)
    assert re.search(r" 65 s\b", row)
    assert "1.00" in row


def test_every_run_has_its_command_and_every_failure_its_reason(tmp_path: Path) -> None:
    fine = make_run(tmp_path / "one", ["adapter.dim=2"])
    other = make_run(tmp_path / "two", ["adapter.dim=4"], split="test")
    failed = without_scores(tmp_path / "three", ["adapter.dim=8"], error="out of memory")
    lines = printed(compared(fine, other, failed), 100)
    for dim in (2, 4, 8):
        assert f"  python -m summarizer.run adapter.dim={dim}" in lines
    assert "Failed: dim=8: out of memory" in lines
    assert "Could not be read: gone: no such folder" in lines
    assert "validation, 12 rows, ROUGE by rouge-score: lowest loss first" in lines
    assert "test, 12 rows, ROUGE by rouge-score: lowest loss first" in lines
    assert "Without final scores: 1 run" in lines
    assert any("their scores do not compare" in line for line in lines)


def test_hostile_text_does_not_steer_the_terminal(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ["adapter.dim=4"])
    config = folder / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("dim: 4", 'dim: "\\e[31mred [bold]x"'))
    summary = folder / "summary.json"
    summary.write_text(summary.read_text().replace('"error": null', '"error": "\\u001b]0;title\\u0007bad"'))
    summary.write_text(summary.read_text().replace('"completed"', '"failed"'))
    other = make_run(tmp_path / "other", ["adapter.dim=2"])
    text = "\n".join(printed(compared(folder, other), 120))
    assert "\x1b]" not in text
    assert "\x1b[31m" not in text
    assert "\x07" not in text
    assert "[bold]x" in text
    assert "]0;title bad" in text
