"""Which rows a run was scored on. Only scores of the same rows stand beside each other."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence

from summarizer.comparing.compared import RowSet
from summarizer.comparing.reading import Read
from summarizer.evaluation.metrics import VARIANTS
from summarizer.evaluation.predictions import Prediction

Lead = tuple[str, int, tuple[float, ...]]


def row_sets(runs: Sequence[Read]) -> list[RowSet | None]:
    """The row set of each run; None for one without scores.

    A run whose predictions are not all at hand, such as one of wandb's, is taken to be scored on the rows of
    another where split, count and all of Lead-3's scores are the same: those depend on every article and every
    reference, and on nothing else that a run could change.
    """
    exact = [_exact(run) for run in runs]
    by_lead: dict[Lead, set[RowSet]] = defaultdict(set)
    for run, row_set in zip(runs, exact, strict=True):
        if row_set is not None and (lead := _lead(run)) is not None:
            by_lead[lead].add(row_set)
    return [row_set or _likely(run, by_lead) for run, row_set in zip(runs, exact, strict=True)]


def digest(predictions: Sequence[Prediction]) -> str:
    """SHA-256 of the rows' ids and references. Their order counts only where ids occur twice."""
    pairs = [[row.id, row.reference] for row in predictions]
    if max(Counter(row.id for row in predictions).values(), default=0) <= 1:
        pairs.sort()
    return _sha256(pairs)


def _exact(run: Read) -> RowSet | None:
    summary = run.summary
    if summary is None or summary.split is None or summary.rows is None or not run.all_rows:
        return None
    return RowSet(summary.split, summary.rows, digest(run.predictions))


def _likely(run: Read, by_lead: dict[Lead, set[RowSet]]) -> RowSet | None:
    """By Lead-3's scores, or where they were not measured by the data that the config names."""
    summary = run.summary
    if summary is None or summary.split is None or summary.rows is None:
        return None
    if summary.rouge is None and summary.val_loss is None:
        return None
    lead = _lead(run)
    if lead is not None and len(known := by_lead.get(lead, set())) == 1:
        return next(iter(known))
    data = run.config.get("data") if lead is None else None
    return RowSet(summary.split, summary.rows, _sha256(["not of the rows themselves", lead, data]))


def _lead(run: Read) -> Lead | None:
    summary = run.summary
    if summary is None or summary.baseline is None or summary.split is None or summary.rows is None:
        return None
    values = tuple(round(summary.baseline[variant].value, 9) for variant in VARIANTS)
    return summary.split, summary.rows, values


def _sha256(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
