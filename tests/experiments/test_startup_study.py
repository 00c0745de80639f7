"""The study of the start: it ends a process where it has come so far, and reads its parts; its command runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import REPOSITORY, measure_of

STUDY = REPOSITORY / "experiments" / "startup"
study = measure_of(STUDY)


def test_a_process_is_ended_where_it_has_come_so_far() -> None:
    program = (
        "import time\nprint('other', flush=True)\nprint('start-up: imports 0.2 s; in all', flush=True)\n"
        "for _ in range(10**7): pass\nprint('step 0, the base', flush=True)\ntime.sleep(60)"
    )
    first, second = study.once(
        study.Contender("long", ("-c", program), ("step 0, ", "start-up: ")), REPOSITORY
    )
    assert (first.line, second.line) == ("start-up: imports 0.2 s; in all", "step 0, the base")
    assert 0 <= first.cpu_s < second.cpu_s
    assert first.wall_s < second.wall_s < 30


def test_the_first_word_is_on_standard_output() -> None:
    program = "import sys, time\nprint('log', file=sys.stderr)\nprint('word', flush=True)\ntime.sleep(60)"
    (reached,) = study.once(study.Contender("word", ("-c", program), ()), REPOSITORY)
    assert reached.line == "w"


def test_an_early_end_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="came to 1"):
        study.once(study.Contender("short", ("-c", "print('a')"), ("a", "b")), REPOSITORY)


def test_the_least_of_all_turns_stands_with_its_parts() -> None:
    slow = study.Reached(9.0, 5.0, "start-up: imports 3.0 s, first step 2.0 s; 5.0 s in all")
    fast = study.Reached(9.5, 4.0, "start-up: imports 2.5 s, first step 1.5 s; 4.0 s in all")
    (found,) = study.least([[slow], [fast]])
    assert (found.wall_s, found.cpu_s) == (9.0, 4.0)
    assert "| it | first step | 4.0 | 9.0 | imports 2.5, first step 1.5 |" in study.table({"it": [found]})


@pytest.mark.slow
def test_the_command_runs_and_its_results_stand_in_the_readme(tmp_path: Path) -> None:
    command = [sys.executable, str(STUDY / "measure.py"), "--quick", "--out", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True)
    assert "| embedded: run | first step | " in (tmp_path / "out.md").read_text()
    readme = (STUDY / "README.md").read_text(encoding="utf-8")
    assert (STUDY / "results" / "idle.md").read_text(encoding="utf-8") in readme
