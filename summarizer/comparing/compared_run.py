"""One run of a comparison, from its record to what the table and the page draw."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from summarizer.comparing.compared import ComparedRun, Point, RowSet, ScoredText
from summarizer.comparing.pairing import RowScores
from summarizer.comparing.reading import Read, finite
from summarizer.evaluation.metrics import Interval, Scores
from summarizer.evaluation.predictions import Prediction
from summarizer.sweeps.swept import Value, one_line
from summarizer.tracking.names import redact

ENDED = {
    "early_stopping": "ended by early stopping",
    "successive_halving": "lost in successive halving",
    "signal": "stopped by a signal",
}


def compared_run(
    name: str,
    run: Read,
    config: Mapping[str, Value],
    row_set: RowSet | None,
    shown: Mapping[RowSet, Sequence[Prediction]],
    row_scores: RowScores,
) -> ComparedRun:
    """shown: the rows of each row set that the page has room for; others' texts are left out."""
    summary = run.summary
    ids = {row.id for row in shown[row_set]} if row_set is not None else set()
    base = summary.base if summary else None
    last_step = run.metrics[-1].get("step") if run.metrics else None
    status, why = _status(run)
    return ComparedRun(
        name=name,
        source=one_line(run.source),
        status=status,
        why=why,
        command=command_of(run.overrides),
        config=config,
        row_set=row_set,
        scores=None if row_set is None or summary is None else _scores(summary.val_loss, summary.rouge),
        base=None if row_set is None or base is None else _scores(base.val_loss, base.rouge),
        lead3=None
        if row_set is None or summary is None or summary.baseline is None
        else _scores(None, summary.baseline),
        history=_history(run),
        predictions=_texts(run.predictions, ids, row_scores),
        base_predictions=_texts(run.base_predictions, ids, row_scores),
        wall_s=summary.wall_s if summary else None,
        tokens_per_s=summary.tokens_per_s if summary else None,
        peak_memory_bytes=summary.peak_memory_bytes if summary else None,
        trainable_parameters=summary.trainable_parameters if summary else None,
        steps=summary.steps if summary and summary.steps is not None else last_step,
        best_step=summary.best_step if summary else None,
    )


def command_of(overrides: Sequence[str] | None) -> str:
    """The command that trains a run again; what looks secret is ***."""
    if overrides is None:
        return ""
    return " ".join(
        ["python -m summarizer.run", *(shlex.quote(one_line(redact(override))) for override in overrides)]
    )


def _status(run: Read) -> tuple[str, str | None]:
    summary = run.summary
    if summary is not None:
        why = one_line(summary.error) if summary.error else ENDED.get(summary.ended_by or "")
        return summary.status, why
    if run.exit_code is None:
        return "running", "it still trains, or was killed: its record has no end"
    status = "completed" if run.exit_code == 0 else "failed"
    return status, f"it gave wandb no summary as it ended with exit code {run.exit_code}"


def _scores(loss: float | None, rouge: Mapping[str, Interval] | None) -> Scores:
    return Scores(rouge or {}, loss)


def _history(run: Read) -> dict[str, tuple[Point, ...]]:
    """Metrics such as train/loss; a value that was not finite is left out."""
    points: dict[str, dict[int, Point]] = {}
    for row in run.metrics:
        for key, value in row.items():
            if "/" in key and key.split("/")[0] in ("train", "val") and (number := finite(value)) is not None:
                points.setdefault(one_line(key), {})[row["step"]] = Point(row["step"], number)
    return {key: tuple(of[step] for step in sorted(of)) for key, of in points.items()}


def _texts(predictions: Sequence[Prediction], ids: set[str], row_scores: RowScores) -> dict[str, ScoredText]:
    return {
        row.id: ScoredText(row.prediction, row_scores.of[row.prediction, row.reference])
        for row in predictions
        if row.id in ids
    }
