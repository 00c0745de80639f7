"""The study of same numbers: what it calls equal, and that its record of before is whole."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from small_runs import REPOSITORY

STUDY = REPOSITORY / "experiments" / "same_numbers"
spec = importlib.util.spec_from_file_location("same_numbers_study", STUDY / "record.py")
assert spec is not None
assert spec.loader is not None
study = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = study
spec.loader.exec_module(study)

DIGEST = "0" * 64


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ({"loss": 2.0, "text": ["a b"], "w": DIGEST}, 0),
        ({"loss": 2.000001, "text": ["a b"], "w": "1" * 64}, 0),
        ({"loss": 2.001, "text": ["a b"], "w": DIGEST}, 1),
        ({"loss": float("nan"), "text": ["a b"], "w": DIGEST}, 1),
        ({"loss": 2.0, "text": ["a c"], "w": DIGEST}, 1),
        ({"loss": 2.0, "text": ["a b", ""], "w": DIGEST}, 1),
        ({"loss": 2.0, "text": ["a b"]}, 1),
    ],
)
def test_only_rounding_and_bits_may_differ(part: dict[str, object], code: int, tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps({"run": {"loss": 2.0, "text": ["a b"], "w": DIGEST}}))
    after.write_text(json.dumps({"run": part}))
    assert study.compare(before, after, 1e-5) == code


def test_words_are_no_numbers() -> None:
    assert study.numbers({"name": "base", "values": [1.5, "x", {"p": 0}]}) == {
        "name": None,
        "values": [1.5, None, {"p": 0}],
    }


def test_the_record_of_before_is_whole() -> None:
    found = json.loads((STUDY / "results" / "before.json").read_text())
    assert len(found["default run"]["metrics"]) > 150
    assert found["killed and resumed"]["adapter"] == found["default run"]["adapter"]
    assert len({found["fused sweep"][number]["scores"]["val_loss"] for number in "0123"}) == 4
    assert len(found["summarize greedy"]) == len(found["summarize beam 4"]) == 8
    assert found["summarize greedy"] != found["summarize beam 4"]
    assert len(found["export merged"]) > 250
