"""The study of first words: it measures what it says it does, and its command still runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import REPOSITORY, measure_of

STUDY = REPOSITORY / "experiments" / "first_words"
study = measure_of(STUDY)


def test_user_seconds_are_those_of_the_process() -> None:
    busy = "print('first')\nfor _ in range(3 * 10**7): pass"
    spent = study.once(study.Case("busy", ("-c", busy), None), REPOSITORY)
    assert spent.first_line == "first"
    assert 0.2 < spent.user_s < spent.wall_s + 0.1
    idle = study.once(study.Case("idle", ("-c", "import time; time.sleep(0.5)"), None), REPOSITORY)
    assert idle.user_s < min(0.2, spent.user_s / 2)
    assert idle.wall_s > 0.5


def test_a_run_is_ended_at_its_first_line() -> None:
    program = "import time\nprint('first', flush=True)\ntime.sleep(60)"
    spent = study.once(study.Case("long", ("-c", program), None, None), REPOSITORY)
    assert spent.first_line == "first"
    assert spent.wall_s < 20


def test_another_end_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="ended with 3"):
        study.once(study.Case("wrong", ("-c", "raise SystemExit(3)"), None), REPOSITORY)


def test_every_aim_of_the_commands_is_there() -> None:
    cases = list(study.cases(Path("run")))
    names = [case.name for case in cases]
    assert len(set(names)) == len(names) > 35
    assert {case.aim_s for case in cases} == {None, 1, 3}
    for command in ("run", "summarize", "evaluate", "export", "compare", "serve"):
        assert any(case.aim_s and f"summarizer.{command}" in case.arguments for case in cases)


def test_what_takes_too_long_is_named() -> None:
    def measured(user_s: float, wall_s: float, code: int | None) -> object:
        case = study.Case("it", (), 1, code)
        return study.Measured(case, [user_s], [wall_s], "", {"hydra": 0.2}, [])

    assert study.missed([measured(0.9, 5, 0), measured(5, 0.9, None)]) == []
    assert study.missed([measured(1.1, 0.5, 0)]) == ["it: 1.10 s, asked for 1 s"]
    assert "| it | 0.90 | 5.00 | 1 | hydra 0.20 |" in study.table([measured(0.9, 5, 0)])


def test_the_command_runs_and_its_results_stand_in_the_readme(tmp_path: Path) -> None:
    command = [sys.executable, str(STUDY / "measure.py"), "--quick", "--only", "--cfg job", "--out", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = json.loads((tmp_path / "out.json").read_text())["commands"]
    assert [one["case"]["name"] for one in found] == ["run --cfg job"]
    assert found[0]["heavy"] == []
    assert "hydra" in found[0]["imports_s"]
    readme = (STUDY / "README.md").read_text(encoding="utf-8")
    assert (STUDY / "results" / "after.md").read_text(encoding="utf-8") in readme
