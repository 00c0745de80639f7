"""The comparison as one web page: a single file that needs nothing else, no network and no server."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from string import Template
from typing import Any

from summarizer.evaluation.metrics import Scores
from summarizer.reports.compared import (
    ComparedRun,
    Comparison,
    Point,
    ScoredText,
    plain,
    plain_run,
    plain_scores,
)
from summarizer.reports.ranking import Number, numbers_of, ranking, spanning
from summarizer.reports.sentences import (
    answers,
    confirmed_answers,
    counted,
    label,
)
from summarizer.runs.read_runs import RowSet
from summarizer.runs.settings import UNSET, Value, heading, setting

PARTS = Path(__file__).parent / "page"
SCRIPTS = (
    "elements.js",
    "runs.js",
    "metrics.js",
    "colors.js",
    "scales.js",
    "chart.js",
    "reading.js",
    "table.js",
    "filters.js",
    "curves.js",
    "heatmap.js",
    "parallel.js",
    "scatter.js",
    "budget.js",
    "predictions.js",
    "details.js",
    "page.js",
)
"""In the order in which they run; the page has them as one script."""


def page(comparison: Comparison, *, reload_s: float | None = None) -> str:
    """The page's HTML, to be written as UTF-8.

    reload_s: how often it loads itself anew, while runs train; None: never.

    Everything that came from a run, such as names, texts and configs, stands in one block of escaped JSON, and the
    page's script puts it into the document as text. The page's Content-Security-Policy lets only that script and
    that style sheet work, by their hashes, and no request leave.
    """
    style = (PARTS / "style.css").read_text(encoding="utf-8")
    script = "\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    data = page_data(comparison) | {"reloadS": reload_s}
    template = Template((PARTS / "index.html").read_text(encoding="utf-8"))
    return template.substitute(
        policy=html.escape(policy),
        title=html.escape(_title(comparison)),
        style=style,
        data=_json(data),
        script=script,
    )


def _title(comparison: Comparison) -> str:
    return f"Comparison of {counted(len(comparison.runs), 'run')}"


def _json(data: Any) -> str:
    r"""JSON that can stand in a script element: without <, > and &, so that no text in it ends the element.

    All that is not ASCII is escaped too, so that half a surrogate pair in a broken file can be written.
    Source: HTML, "Restrictions for contents of script elements".
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _hash(text: str) -> str:
    """The hash of an inline script or style, as Content-Security-Policy Level 3 names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


MODEL_KEYS = ("model.name_or_path", "quantization.format", "quantization.embedding_format")
"""Keys of the config that tell one base from another in a comparison of several."""


def page_data(comparison: Comparison) -> dict[str, Any]:
    """Plain data: no number in it is infinite or not a number; such a value is null."""
    values = {key: _values(comparison, key) for key in comparison.swept}
    positions = {key: {value: at for at, value in enumerate(of)} for key, of in values.items()}
    numbers = numbers_of(comparison.runs)
    points = points_per_curve(comparison.runs)
    base_texts: list[Mapping[str, ScoredText]] = []
    measured = _measured(comparison.runs)
    return {
        "answers": [
            {"headline": a.headline, "certainty": a.certainty}
            for a in (*answers(comparison), *confirmed_answers(comparison))
        ],
        "sweeps": [
            {
                "source": one.source,
                "metric": one.metric,
                "unit": one.unit,
                "decimals": one.decimals,
                "expectedBest": plain(one.expected_best),
                "note": one.note,
            }
            for one in comparison.sweeps
        ],
        "rankedBy": comparison.ranked_by,
        "swept": [
            {
                "key": heading(key),
                "label": label(heading(key)),
                "values": [{"text": setting(key, {key: v}), "number": plain(v.number)} for v in values[key]],
            }
            for key in comparison.swept
        ],
        "shared": _shared(comparison),
        "numbers": [_number(comparison, number) for number in numbers],
        "spanning": [_spanning(comparison, indices) for indices in _beside(comparison)],
        "rowSets": [_row_set(comparison, row_set) for row_set in comparison.row_sets],
        "runs": [
            {
                **_run(comparison, run, positions, points, base_texts),
                "measured": measured[i],
                "numbers": {number.id: plain(number.of(run)) for number in numbers},
            }
            for i, run in enumerate(comparison.runs)
        ],
        "baseTexts": plain(base_texts),
        "problems": [[path, reason] for path, reason in comparison.problems.items()],
        "notes": list(comparison.notes),
    }


def _values(comparison: Comparison, key: str) -> list[Value]:
    return sorted({run.config.get(key, UNSET) for run in comparison.runs})


def _shared(comparison: Comparison) -> list[list[str]]:
    """The keys of the config that all runs have with the same value."""
    first, *others = comparison.runs or (None,)
    if first is None:
        return []
    return [
        [key, value.text]
        for key, value in first.config.items()
        if all(run is not None and run.config.get(key) == value for run in others)
    ]


def _row_set(comparison: Comparison, row_set: RowSet) -> dict[str, Any]:
    runs = [run for run in comparison.runs if run.row_set == row_set]
    names = [run.name for run in comparison.runs]
    best = comparison.best.get(row_set)
    bases = _distinct([(run, run.base) for run in runs if run.base])
    lead = next((run.lead3 for run in runs if run.lead3), None)  # of the rows alone, whatever the base
    return {
        **plain(row_set),
        "best": None if best is None else names.index(best),
        "systems": [{"name": f"base model{_of(run, bases)}", **plain_scores(scores)} for run, scores in bases]
        + ([] if lead is None else [{"name": "Lead-3", **plain_scores(lead)}]),
        "articles": plain(comparison.rows.get(row_set, ())),
    }


def _distinct(systems: Sequence[tuple[ComparedRun, Scores]]) -> list[tuple[ComparedRun, Scores]]:
    """One of each: runs over the same base share its scores, whose intervals differ by the seed alone."""
    kept: dict[object, tuple[ComparedRun, Scores]] = {}
    for run, scores in systems:
        loss = None if scores.loss is None else f"{scores.loss:.3g}"
        means = tuple((variant, f"{of.value:.2f}") for variant, of in scores.rouge.items())
        kept.setdefault((_model(run), loss, means), (run, scores))
    return list(kept.values())


def _of(run: ComparedRun, among: Sequence[tuple[ComparedRun, Scores]]) -> str:
    """Which of several bases: by its model where that tells them apart, else by a run that has it."""
    if len(among) == 1:
        return ""
    models = [_model(other) for other, _ in among]
    return f" ({_model(run) if _model(run) and len(set(models)) == len(models) else f'of {run.name}'})"


def _model(run: ComparedRun) -> str:
    texts = (run.config[key].text for key in MODEL_KEYS if key in run.config)
    return ", ".join(dict.fromkeys(text for text in texts if text != "null"))


def _run(
    comparison: Comparison,
    run: ComparedRun,
    positions: Mapping[str, Mapping[Value, int]],
    points: int,
    base_texts: list[Mapping[str, ScoredText]],
) -> dict[str, Any]:
    if run.base_predictions and run.base_predictions not in base_texts:
        base_texts.append(run.base_predictions)
    return {
        **plain_run(comparison, run),
        "at": [positions[key][run.config.get(key, UNSET)] for key in comparison.swept],
        "rowSet": None if run.row_set is None else comparison.row_sets.index(run.row_set),
        "history": {metric: thinned(history, points) for metric, history in run.history.items() if history},
        "texts": plain(run.predictions),
        "base": base_texts.index(run.base_predictions) if run.base_predictions else None,
        "steps": run.record.steps,
        "rougeRows": _rouge_rows(run),
    }


MEASURED_BY = re.compile(
    r"data\.(?!processes$|train$|rows\.train$)|evaluation\.loss_rows$|model\.name_or_path$"
)
"""Keys of the config on which the loss of validation rows during training depends, beside what is trained."""


def _measured(runs: Sequence[ComparedRun]) -> list[int | None]:
    """Equal numbers for runs with the same rows behind their validation losses during training; None: unknown."""
    by_run = [{key: of for key, of in run.config.items() if MEASURED_BY.match(key)} for run in runs]
    return [by_run.index(own) if any(key.startswith("data.") for key in own) else None for own in by_run]


def _rouge_rows(run: ComparedRun) -> int | None:
    """How many rows ROUGE during training is of, at most."""
    rows = run.config.get("evaluation.rows_during_training", UNSET).number
    return None if rows is None else int(rows)


def _beside(comparison: Comparison) -> list[list[int]]:
    """The runs that each row set's charts show, by their indices; those without scores are in all."""
    among = comparison.row_sets or (None,)
    return [
        [i for i, run in enumerate(comparison.runs) if run.row_set in (row_set, None)] for row_set in among
    ]


def _number(comparison: Comparison, number: Number) -> dict[str, Any]:
    """A number and, for each row set, the ranking that a sweep's pictures are drawn from too."""
    rankings = []
    for indices in _beside(comparison):
        runs = [comparison.runs[i] for i in indices]
        ranked = ranking(
            [plain(number.of(run)) for run in runs],
            [run.record.status for run in runs],
            lower_is_better=number.lower,
            decimals=number.decimals,
        )
        rankings.append(
            {
                "order": [indices[i] for i in ranked.order],
                "shares": {indices[i]: round(share, 4) for i, share in ranked.shares.items()},
                "worst": ranked.worst,
                "best": ranked.best,
                "clipped": ranked.clipped,
            }
        )
    named = {"id": number.id, "name": number.name, "unit": number.unit}
    return {**named, "lower": number.lower, "decimals": number.decimals, "rankings": rankings}


def _spanning(comparison: Comparison, indices: Sequence[int]) -> list[int]:
    """The settings that differ between these runs, in the order in which charts take them."""
    runs = [comparison.runs[i] for i in indices]
    values = {key: {run.config.get(key, UNSET) for run in runs} for key in comparison.swept}
    differ = {heading(key): (i, values[key]) for i, key in enumerate(values) if len(values[key]) > 1}
    return [differ[key][0] for key in spanning({key: of for key, (_, of) in differ.items()})]


# ---- curves -----------------------------------------------------------------------------------------------------

MOST_PER_CURVE = 400
"""Points of a curve: a chart is some 400 to 900 pixels wide."""
MOST_IN_ALL = 60_000
"""Points of all curves of a page, which keeps 200 long runs under 2 MB."""
FEWEST_PER_CURVE = 50


def points_per_curve(runs: Sequence[ComparedRun]) -> int:
    """How many points each curve may have."""
    curves = sum(len(run.history) for run in runs)
    return min(MOST_PER_CURVE, max(FEWEST_PER_CURVE, MOST_IN_ALL // max(curves, 1)))


def thinned(history: Sequence[Point], most: int) -> dict[str, Any]:
    """At most about `most` points. Of more, neighbors are averaged: `meanOf` says how many points stand in one.

    The last step always stands for itself. A value that is not finite is null and makes its mean null.
    """
    size = math.ceil(len(history) / most)
    last = history[-1:]
    groups = [history[i : i + size] for i in range(0, len(history), size)]
    if size > 1 and len(groups[-1]) > 1:
        groups[-1:] = [groups[-1][:-1], last]
    means = [fmean(point.value for point in group) for group in groups]
    return {
        "steps": [group[-1].step for group in groups],
        "values": [float(f"{mean:.5g}") if math.isfinite(mean) else None for mean in means],
        "meanOf": size,
    }
