"""The data of a comparison: its runs with their scores, side by side. Tables, page and JSON draw only this."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from summarizer.console.safe_text import one_line
from summarizer.console.secrets import redact
from summarizer.evaluation.metrics import Scores
from summarizer.evaluation.predictions import Prediction, RowFaithfulness
from summarizer.evaluation.record import Difference, Kind
from summarizer.reports.compared_sweeps import ComparedSweep
from summarizer.runs.read_runs import RowSet, RunFiles, finite
from summarizer.runs.record import RunRecord
from summarizer.runs.settings import Value


@dataclass(frozen=True)
class Point:
    """A metric's value after an optimizer step."""

    step: int
    value: float


@dataclass(frozen=True)
class ScoredText:
    """One summary and its own ROUGE in percent, by variant."""

    text: str
    rouge: Mapping[str, float]
    missing: Sequence[tuple[Kind, int, int]] = ()
    """Names, numbers and quotes that its article does not have, at their characters [start, end)."""


TextScores = Mapping[tuple[str, str], Mapping[str, float]]
"""ROUGE in percent, by variant, of each pair of a prediction and its reference."""


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs that are compared."""

    name: str
    """It is short, and different for each run of the comparison."""
    source: str
    """The folder that it was read from, as the user sees it."""
    record: RunRecord
    """Its status, steps, time, memory and parameters, as its folder has them."""
    why: str | None
    """What ended it, or its error, in one line; None where it just completed."""
    command: str
    """The command that trains it again, to be copied into a shell; empty where its record does not say."""
    config: Mapping[str, Value]
    """Every key of its config, dotted."""
    row_set: RowSet | None
    """The rows that it was scored on; None where it never was."""
    scores: Scores | None
    base: Scores | None
    """The scores of the untrained base model on the same rows."""
    lead3: Scores | None
    history: Mapping[str, tuple[Point, ...]]
    """Each metric's values by ascending step, such as those of train/loss or val/rougeLsum."""
    predictions: Mapping[str, ScoredText]
    """Its summaries by row id; of many rows only the first have theirs here."""
    base_predictions: Mapping[str, ScoredText]


@dataclass(frozen=True)
class Row:
    """An article that several runs summarized."""

    id: str
    reference: str
    article: str | None
    """The beginning of its text; None where its data cannot be read here."""


@dataclass(frozen=True)
class Comparison:
    runs: tuple[ComparedRun, ...]
    """They stand by row set, the best first within each; runs without scores come last."""
    swept: tuple[str, ...]
    """Keys of the config whose values differ between the runs, those that were overridden first."""
    row_sets: tuple[RowSet, ...]
    """The sets of rows that runs were scored on; the one with most runs comes first."""
    best: Mapping[RowSet, str]
    """The name of the best run on each row set, by `ranked_by`."""
    ranked_by: str
    """What runs are ranked by: val/loss or a ROUGE variant, such as rougeLsum."""
    against_best: Mapping[str, Mapping[str, Difference]]
    """Name of a run to ROUGE variant or score of faithfulness to (the best run minus this run), paired, with Holm's
    adjustment within each of the two. A run is missing where it is the best itself or has no predictions to be
    read."""
    rows: Mapping[RowSet, tuple[Row, ...]]
    """The rows whose summaries the page shows."""
    problems: Mapping[str, str]
    """What could not be read, wholly or in part, by its path: the reason, in one line."""
    notes: tuple[str, ...]
    """What a reader has to know before comparing, a sentence each."""
    sweeps: tuple[ComparedSweep, ...] = ()
    """What the folders of the sweeps that the runs are of say beside them."""


ENDED = {
    "early_stopping": "ended by early stopping",
    "successive_halving": "lost in successive halving",
    "request": "stopped on request",
    "signal": "stopped by a signal",
}


def compared_run(
    name: str,
    run: RunFiles,
    config: Mapping[str, Value],
    row_set: RowSet | None,
    shown: Mapping[RowSet, Sequence[Prediction]],
    texts: TextScores,
) -> ComparedRun:
    """One run of a comparison, from its files to what the table and the page draw.

    shown: the rows of each row set that the page has room for; others' texts are left out.
    """
    record = run.record
    ids = {row.id for row in shown[row_set]} if row_set is not None else set()
    is_scored = row_set is not None
    base, lead = (record.base, record.baseline) if is_scored else (None, None)
    return ComparedRun(
        name=name,
        source=one_line(run.source),
        record=record,
        why=_why(record),
        command=command_of([*record.overrides, *_as_it_was(record.config)]) if run.says_overrides else "",
        config=config,
        row_set=row_set,
        scores=Scores(record.rouge or {}, record.val_loss, faithfulness=record.faithfulness or {})
        if is_scored
        else None,
        base=None
        if base is None
        else Scores(base.rouge or {}, base.val_loss, faithfulness=base.faithfulness or {}),
        lead3=None if lead is None else Scores(lead, faithfulness=record.baseline_faithfulness or {}),
        history=history_of(run.metrics),
        predictions=_texts(run.predictions, ids, texts, run.faithfulness),
        base_predictions=_texts(run.base_predictions, ids, texts, run.base_faithfulness),
    )


def command_of(overrides: Sequence[str]) -> str:
    """The command that trains with these overrides; what looks secret is ***."""
    return " ".join(
        ["python -m summarizer.run", *(shlex.quote(one_line(redact(override))) for override in overrides)]
    )


def _as_it_was(config: Mapping[str, Any] | None) -> list[str]:
    """What makes a run from before `quantization.embedding_format` again, whose base was all in 4 bits."""
    quantization = (config or {}).get("quantization")
    if not isinstance(quantization, Mapping) or "embedding_format" in quantization:
        return []
    return ["quantization.embedding_format=null"] if quantization.get("format") == "nf4" else []


def _why(record: RunRecord) -> str | None:
    if record.status == "running":
        return "it still trains, or was killed: its record has no end"
    return one_line(record.error) if record.error else ENDED.get(record.ended_by or "")


def history_of(metrics: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Point, ...]]:
    """The curves of a metrics.jsonl, such as train/loss, by step; a value that was not finite is left out."""
    points: dict[str, dict[int, Point]] = {}
    for row in metrics:
        for key, value in row.items():
            if "/" in key and key.split("/")[0] in ("train", "val") and (number := finite(value)) is not None:
                points.setdefault(one_line(key), {})[row["step"]] = Point(row["step"], number)
    return {key: tuple(of[step] for step in sorted(of)) for key, of in points.items()}


def _texts(
    predictions: Sequence[Prediction],
    ids: set[str],
    texts: TextScores,
    faithfulness: Mapping[str, RowFaithfulness],
) -> dict[str, ScoredText]:
    return {
        row.id: ScoredText(
            row.prediction,
            texts[row.prediction, row.reference],
            faithfulness[row.id].missing if row.id in faithfulness else (),
        )
        for row in predictions
        if row.id in ids
    }


def as_json(comparison: Comparison) -> str:
    """One object. Runs are listed below their `row_sets`, the best first; `unscored` has those without scores."""
    return json.dumps(
        {
            "ranked_by": comparison.ranked_by,
            "swept": list(comparison.swept),
            "row_sets": [
                {
                    **plain(row_set),
                    "best": comparison.best.get(row_set),
                    "runs": [_run(comparison, run) for run in comparison.runs if run.row_set == row_set],
                    "rows_shown": plain(comparison.rows.get(row_set, ())),
                }
                for row_set in comparison.row_sets
            ],
            "sweeps": plain(comparison.sweeps),
            "unscored": [_run(comparison, run) for run in comparison.runs if run.row_set is None],
            "problems": dict(comparison.problems),
            "notes": list(comparison.notes),
        },
        indent=1,
        allow_nan=False,  # and ASCII alone: half a surrogate pair in a broken file can be written only so
    )


OF_RECORD = (*("wall_s", "tokens_per_s", "peak_memory_bytes", "trainable_parameters", "steps", "best_step"),)
"""The fields of a run's record that the JSON has."""


def _run(comparison: Comparison, run: ComparedRun) -> dict[str, Any]:
    systems = {"base": run.base, "lead3": run.lead3}
    return {
        **plain_run(comparison, run),
        "config": plain(run.config),
        **{name: None if of is None else plain_scores(of) for name, of in systems.items()},
        "history": plain(run.history),
        "predictions": plain(run.predictions),
        "base_predictions": plain(run.base_predictions),
        **{name: plain(getattr(run.record, name)) for name in OF_RECORD},
    }


def plain_run(comparison: Comparison, run: ComparedRun) -> dict[str, Any]:
    """What both the JSON and the page say of a run, in what JSON knows."""
    against = comparison.against_best.get(run.name)
    return {
        "name": run.name,
        "source": run.source,
        "status": run.record.status,
        "why": run.why,
        "command": run.command,
        "scores": None if run.scores is None else plain_scores(run.scores),
        "best_minus_this": None if against is None else {v: _difference(d) for v, d in against.items()},
    }


def plain_scores(scores: Scores) -> dict[str, Any]:
    """Loss, and ROUGE and faithfulness with their intervals."""
    return {
        "loss": plain(scores.loss),
        "rouge": plain(scores.rouge),
        "faithfulness": plain(scores.faithfulness),
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return {
        "mean": plain(difference.mean),
        "p_value": difference.p_value,
        "p_adjusted": difference.p_holm,
        "rows": difference.rows,
    }


def plain(value: Any) -> Any:
    """A value in what JSON knows, which has no numbers without bounds: they are null."""
    if isinstance(value, Value):
        return value.text if value.number is None else plain(value.number)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
