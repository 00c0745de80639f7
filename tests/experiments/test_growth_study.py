"""The study of growth: what a process held, the slopes, the rows and runs that it makes, and its command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import REPOSITORY, TRAINED_ROWS, measure_of

from summarizer.evaluation.metrics import score_pairs
from summarizer.runs.read_runs import read_run_files

STUDY = REPOSITORY / "experiments" / "growth"
study = measure_of(STUDY)
ROWS = [
    {"id": str(i), "article": " ".join(f"word{n}" for n in range(i, i + 200)), "highlights": f"Sum {i}."}
    for i in range(3)
]


def test_a_process_is_seen_with_its_children() -> None:
    child = "import time; held = bytearray(60 << 20); time.sleep(0.6)"
    program = (
        "import subprocess, sys\nheld = bytearray(40 << 20)\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)\nprint('done')"
    )
    seen = study.watched(["-c", program])
    assert 60 << 20 < seen.peak_bytes < 95 << 20, "of the child, which has more"
    assert seen.anonymous_bytes > 100 << 20, "of both"
    assert 0 < seen.cpu_s < seen.seconds + 1
    assert [line for _, line in seen.lines] == ["done"]


def test_a_command_that_fails_is_no_point() -> None:
    with pytest.raises(RuntimeError, match="ended with 3:\nwhy"):
        study.watched(["-c", "print('why'); raise SystemExit(3)"])


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
def test_slope_and_power_are_those_of_the_costs(k: float) -> None:
    sizes = [1, 2, 4, 8, 16, 32]
    assert study.slope(sizes, [3 * size**k for size in sizes]) == pytest.approx(k)
    assert study.power(sizes, [3 * size**k for size in sizes]) == pytest.approx(k, abs=0.02)
    with_start = [50 + 3 * size**k for size in sizes]
    assert study.slope(sizes, with_start) < k - 0.05, "what is paid once hides the growth"
    assert study.power(sizes, with_start) == pytest.approx(k, abs=0.02)


def test_what_hardly_grows_has_no_power() -> None:
    assert study.power([1, 10, 100, 1000], [100, 101, 102, 110]) is None
    assert study.power([1, 10], [1, 10]) is None, "two points tell no curve from another"


def test_short_rows_are_all_different_pieces_of_real_ones() -> None:
    made = list(study.short_rows(ROWS, 10))
    assert [row["id"] for row in made] == [str(i) for i in range(10)]
    assert len({row["article"].partition(": ")[2] for row in made}) == 10
    assert all(row["article"].partition(": ")[2] in ROWS[i % 3]["article"] for i, row in enumerate(made))
    assert [row["highlights"] for row in made[:4]] == ["Sum 0.", "Sum 1.", "Sum 2.", "Sum 0."]


def test_long_rows_fill_so_many_words() -> None:
    made = list(study.long_rows(ROWS, 3, 900))
    assert all(len(row["article"].split()) >= 900 for row in made)
    assert len({row["article"] for row in made}) == 3


def test_a_run_of_many_predictions_scores_what_it_scored(trained_run: Path, tmp_path: Path) -> None:
    run = study.with_predictions(trained_run, tmp_path / "many", 10 * TRAINED_ROWS)
    before, many = (read_run_files(folder) for folder in (trained_run, run))
    texts = [(row.prediction, row.reference) for row in many.predictions]
    assert len(set(texts)) == len(texts) == many.record.rows == 10 * TRAINED_ROWS
    assert len(many.faithfulness) == 10 * len(before.faithfulness) > 0
    assert not many.problems
    scores = score_pairs([one for one, _ in texts], [other for _, other in texts], show=False)
    assert many.record.rouge is not None
    for variant, values in scores.items():
        assert values.mean() == pytest.approx(many.record.rouge[variant].value, abs=1e-9)
    with pytest.raises(ValueError, match="no whole copies"):
        study.with_predictions(trained_run, tmp_path / "half", TRAINED_ROWS + 1)


@pytest.mark.slow
@pytest.mark.timeout(900)  # many commands, each of which imports torch anew
def test_the_quick_command_runs(tmp_path: Path) -> None:
    """On the package's own rows, which are there on every machine; a table, a picture and the figures of each."""
    out = tmp_path / "out"
    rows = REPOSITORY / "summarizer" / "data" / "sample" / "train.jsonl"
    command = [sys.executable, STUDY / "measure.py", "--quick", f"--rows={rows}", f"--out={out}"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    series = {
        "trials": ["sweep"],
        "length": ["run"],
        "rows": ["streamed", "tokenized", "cached"],
        "predictions": ["compare --html"],
    }
    for axis, names in series.items():
        found = json.loads((out / f"{axis}.json").read_text())["series"]
        assert list(found) == names
        for points in found.values():
            assert len(points) == 2
            assert all(costs["cpu_s"] > 0 and costs["peak_bytes"] > 10 << 20 for costs in points.values())
        assert "slope of the last decade" in (out / f"{axis}.md").read_text()
        assert (out / f"{axis}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", sorted((STUDY / "results").glob("*.json")), ids=lambda path: path.stem)
def test_its_readme_shows_its_results(path: Path) -> None:
    readme = (STUDY / "README.md").read_text(encoding="utf-8")
    shown = path.with_suffix(".md").read_text(encoding="utf-8")
    assert shown in readme
    assert f"](results/{path.stem}.png)" in readme
    assert study.table(path.stem, study.read(path)) == shown
