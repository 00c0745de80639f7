"""The study of the house: what it counts, what it shows, and that its command still traces a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_runs import REPOSITORY, measure_of

STUDY = REPOSITORY / "experiments" / "house"
RESULTS = sorted((STUDY / "results").glob("*.json"))
study = measure_of(STUDY)


def test_lines_are_those_of_the_modules(tmp_path: Path) -> None:
    (tmp_path / "summarizer" / "room").mkdir(parents=True)
    (tmp_path / "summarizer" / "run.py").write_text("a = 1\nb = 2\n")
    (tmp_path / "summarizer" / "room" / "__init__.py").write_text("")
    (tmp_path / "summarizer" / "room" / "kernel.c").write_text("int main;\n")
    assert study.lines_of(tmp_path) == {"room/__init__.py": 0, "run.py": 2}


def test_its_readme_shows_its_results() -> None:
    assert [path.stem for path in RESULTS][-1:] == ["before"]
    shown = study.table({path.stem: study.read(path) for path in reversed(RESULTS)})
    assert shown in (STUDY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_counts_are_those_of_the_trace(path: Path) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    counts, trace = result["counts"], result["trace"]
    assert counts["imported"] == len(trace["imported"]) > counts["executed_files"]
    assert counts["executed_files"] == len(trace["files"]) > counts["files_on_stack"]
    assert counts["frames_on_stack"] == len(trace["stack"])
    assert trace["stack"][0] == "run.py:<module>"


@pytest.mark.slow
def test_a_run_is_traced_to_its_first_step() -> None:
    found = study.trace(REPOSITORY)
    assert "summarizer.training" in found["imported"]
    assert "run.py" in found["files"]
    assert found["stack"][-1].startswith("training/")
    assert found["functions"] > len(found["files"]) > 10
