from __future__ import annotations

from pathlib import Path

import pytest

from summarizer.errors import ConfigError
from summarizer.evaluation.predictions import Prediction, read_predictions, write_predictions

ROWS = [Prediction("a", 'quo"ted\nand é\u2028', ""), Prediction("b", "", "reference")]


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "predictions" / "validation.jsonl"
    write_predictions(path, ROWS)
    assert read_predictions(path) == ROWS
    assert path.read_bytes().count(b"\n") == 2
    assert [file.name for file in path.parent.iterdir()] == ["validation.jsonl"]
    write_predictions(path, [])
    assert read_predictions(path) == []


def test_every_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    write_predictions(path, ROWS)
    with path.open("a") as file:
        file.write(
            '{"id": 1, "prediction": "", "reference": ""}\n\n[]\n{"id": "c"\n{"id": "x", "prediction": ""}'
        )
    with pytest.raises(ConfigError) as caught:
        read_predictions(path)
    assert [issue.key for issue in caught.value.issues] == [f"{path}:{line}" for line in (3, 4, 5, 6, 7)]


def test_missing_and_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no predictions to read"):
        read_predictions(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_predictions(tmp_path / "latin.jsonl")
