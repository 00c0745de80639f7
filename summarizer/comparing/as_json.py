"""A comparison as plain data, for other programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from summarizer.comparing.compared import ComparedRun, Comparison
from summarizer.evaluation.metrics import Scores
from summarizer.evaluation.statistics import Difference
from summarizer.sweeps.swept import Value


def as_json(comparison: Comparison) -> str:
    """One object. Runs are listed below their `row_sets`, the best first; `unscored` has those without scores."""
    return json.dumps(
        {
            "ranked_by": comparison.ranked_by,
            "swept": list(comparison.swept),
            "row_sets": [
                {
                    **_plain(row_set),
                    "best": comparison.best.get(row_set),
                    "runs": [_run(comparison, run) for run in comparison.runs if run.row_set == row_set],
                    "rows_shown": _plain(comparison.rows.get(row_set, ())),
                }
                for row_set in comparison.row_sets
            ],
            "unscored": [_run(comparison, run) for run in comparison.runs if run.row_set is None],
            "problems": dict(comparison.problems),
            "notes": list(comparison.notes),
        },
        indent=1,
        allow_nan=False,  # and ASCII alone: half a surrogate pair in a broken file can be written only so
    )


def _run(comparison: Comparison, run: ComparedRun) -> dict[str, Any]:
    plain: dict[str, Any] = _plain(run)
    del plain["row_set"]  # it stands below it
    for system in ("scores", "base", "lead3"):
        scores: Scores | None = getattr(run, system)
        plain[system] = None if scores is None else _plain({"loss": scores.loss, "rouge": scores.rouge})
    against = comparison.against_best.get(run.name)
    plain["best_minus_this"] = None if against is None else {v: _difference(d) for v, d in against.items()}
    return plain


def _difference(difference: Difference) -> dict[str, Any]:
    return {
        "mean": _plain(difference.mean),
        "p_value": difference.p_value,
        "p_adjusted": difference.p_holm,
        "rows": difference.rows,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Value):
        return value.text if value.number is None else _plain(value.number)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
