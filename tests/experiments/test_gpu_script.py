"""The prepared script for a GPU: what becomes of its points, and that the studies know what it tells them."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import time
from pathlib import Path
from types import ModuleType

import psutil
import pytest
from small_runs import REPOSITORY

STUDY = REPOSITORY / "experiments" / "gpu" / "run.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_script", STUDY)
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def point(script: ModuleType, name: str, code: str, limit_s: float = 20.0) -> object:
    class Written(script.Point):  # type: ignore[name-defined, misc]
        def command(self, work: Path) -> list[str]:
            return [sys.executable, "-c", code, str(work / self.out)]

    return Written(name, limit_s, "", "some_study", name)


def test_every_point_is_written_down_and_none_takes_more_than_its_time(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    writes = "import pathlib, sys; out = pathlib.Path(sys.argv[1]); out.mkdir(); print('said')\n"
    writes += "(out / 'table.md').write_text('| half |'); (out / 'results.json').write_text('[1]')\n"
    hangs = "import subprocess, time; child = subprocess.Popen(['sleep', '60'])\n"
    hangs += f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid)); time.sleep(60)"
    monkeypatch.setattr(script, "LEAST_S", 0.5)
    monkeypatch.setattr(script, "GRACE_S", 0.1)
    monkeypatch.setattr(
        script,
        "POINTS",
        (
            point(script, "good", writes),
            point(script, "late", writes + hangs, 1.0),
            point(script, "bad", "raise SystemExit('what went wrong')"),
            point(script, "never", writes, 0.0),
        ),
    )
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(tmp_path / "out"), "--device", "cuda"])
    begun_s = time.monotonic()
    assert script.main() == 1
    assert time.monotonic() - begun_s < 30
    gone = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(gone) or psutil.Process(gone).status() == psutil.STATUS_ZOMBIE
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "log.txt",
        "report.md",
        "results.json",
    ]
    report = (tmp_path / "out" / "report.md").read_text()
    rows = re.findall(r"^\| (\w+) \| [\d.]+ \| \d+ \| (.*) \|$", report, re.MULTILINE)
    assert [name for name, _ in rows] == ["good", "late", "bad", "never"]
    assert rows[0][1] == "passed"
    assert rows[1][1].startswith("stopped after 1 s")
    assert rows[2][1] == "failed with exit code 1"
    assert rows[3][1] == "not begun: no time was left"
    assert report.count("| half |") == 2, "what a study wrote before its time was up counts"
    assert "what went wrong" in report
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [found[name]["results"] for name in ("good", "late", "bad", "never")] == [[1], [1], None, None]
    assert capsys.readouterr().out.startswith("good: passed")


def test_the_points_fit_into_nine_minutes_and_the_studies_know_their_arguments(script: ModuleType) -> None:
    assert script.POINTS[0].words.startswith("-m gpu")
    assert 300 < sum(one.limit_s for one in script.POINTS[:4]) < 60 * script.MINUTES - script.GRACE_S
    studies = [one for one in (*script.POINTS, *script.QUICK) if one.study]
    assert len(studies) == 8
    for one in studies:
        source = (REPOSITORY / "experiments" / one.study / "measure.py").read_text(encoding="utf-8")
        used = [word for word in one.command(Path("work")) if word.startswith("--")]
        assert len(used) >= 3
        assert [word for word in used if f'"{word}"' not in source] == []
    for one in script.QUICK:
        for word in one.words.split():
            assert not word.startswith("tests/") or (REPOSITORY / word).is_file()


@pytest.mark.parametrize("arguments", [["--device", "cpu"], ["--quick"], ["--only", "everything"]])
def test_mistakes_are_said(
    script: ModuleType, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as caught:
        script.main()
    assert caught.value.code == 2
