"""How long evaluations take, by those before them."""

from __future__ import annotations

from typing import Literal

Work = Literal["loss", "summaries"]


class EvaluationPace:
    """Seconds for a row of one trial, by what the last rows took.

    The base alone is measured apart: trials that are evaluated together share much of the work. Until there is a
    measure of either, the other's counts for both; what was never measured counts as nothing.
    """

    def __init__(self) -> None:
        self._row_s: dict[tuple[Work, bool], float] = {}

    def took(self, work: Work, seconds: float, *, rows: int, trials: int | None) -> None:
        """trials: how many were evaluated together; None for the base alone."""
        if rows:
            self._row_s[work, trials is None] = seconds / (rows * (trials or 1))

    def expected_s(self, *, loss_rows: int, summary_rows: int, base: bool = False) -> float:
        """Of one trial, or of the base alone."""
        rows: dict[Work, int] = {"loss": loss_rows, "summaries": summary_rows}
        return sum(
            count * self._row_s.get((work, base), self._row_s.get((work, not base), 0.0))
            for work, count in rows.items()
        )
