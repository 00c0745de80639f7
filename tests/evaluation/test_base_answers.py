"""What the base model answered is kept to the bit, for the same question alone, and not believed where damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from summarizer.data.order import EncodedRow
from summarizer.evaluation.base_answers import BaseAnswers

ROWS = [EncodedRow("a", [1, 2, 3], [4]), EncodedRow("b", [5], [6, 7])]
LOSSES = [0.1 + 0.2, 1e-17 / 3]


def unasked() -> list[object]:
    pytest.fail("the base model is asked again")


def test_the_same_question_is_asked_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = BaseAnswers(tmp_path / "base_model", {"base": "x", "rows": 8})
    assert kept.losses(ROWS, lambda: LOSSES) == LOSSES
    assert kept.summaries(ROWS, lambda: ["one", "zwei\n"]) == ["one", "zwei\n"]
    again = BaseAnswers(tmp_path / "base_model", {"base": "x", "rows": 8})
    assert again.losses(ROWS, unasked) == LOSSES
    assert again.summaries(ROWS, unasked) == ["one", "zwei\n"]
    assert not caplog.records or all(record.levelname == "INFO" for record in caplog.records)


@pytest.mark.parametrize("changed", ["base", "rows asked for", "a row's tokens"])
def test_another_question_has_its_own_answer(changed: str, tmp_path: Path) -> None:
    BaseAnswers(tmp_path, {"base": "x"}).losses(ROWS, lambda: LOSSES)
    other = BaseAnswers(tmp_path, {"base": "y" if changed == "base" else "x"})
    rows = {"rows asked for": ROWS[:1], "a row's tokens": [ROWS[0], EncodedRow("b", [5], [6, 8])]}
    asked = rows.get(changed, ROWS)
    assert other.losses(asked, lambda: [9.0] * len(asked)) == [9.0] * len(asked)


@pytest.mark.parametrize("damage", ["0.30000000000000004:0.3", "losses:lasses", "{:["])
def test_what_is_damaged_is_made_anew(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = BaseAnswers(tmp_path, {})
    kept.losses(ROWS, lambda: LOSSES)
    (path,) = tmp_path.iterdir()
    before, _, after = damage.partition(":")
    path.write_text(path.read_text().replace(before, after))
    assert kept.losses(ROWS, lambda: [1.0, 2.0]) == [1.0, 2.0]
    assert "made anew" in caplog.text
    assert kept.losses(ROWS, unasked) == [1.0, 2.0]


def test_a_disk_that_refuses_it_is_no_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    kept = BaseAnswers(tmp_path / "file" / "base_model", {})
    assert kept.losses(ROWS, lambda: LOSSES) == LOSSES
    assert "are not kept in" in caplog.text


def test_losses_that_are_no_numbers_are_asked_for_again(tmp_path: Path) -> None:
    kept = BaseAnswers(tmp_path, {})
    kept.losses(ROWS, lambda: [float("nan"), 1.0])
    assert kept.losses(ROWS, lambda: LOSSES) == LOSSES
