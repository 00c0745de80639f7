from __future__ import annotations

import pytest

from summarizer.evaluation.pace import EvaluationPace


def test_a_row_s_pace_is_that_of_the_last_evaluation() -> None:
    pace = EvaluationPace()
    assert pace.expected_s(loss_rows=10, summary_rows=10) == 0
    pace.took("loss", 4.0, rows=8, trials=None)
    assert pace.expected_s(loss_rows=10, summary_rows=10) == 5.0, "the base's, until a trial was evaluated"
    pace.took("loss", 4.0, rows=8, trials=5)
    pace.took("summaries", 30.0, rows=3, trials=5)
    assert pace.expected_s(loss_rows=10, summary_rows=10) == pytest.approx(1.0 + 20.0)
    assert pace.expected_s(loss_rows=10, summary_rows=10, base=True) == pytest.approx(5.0 + 20.0)
