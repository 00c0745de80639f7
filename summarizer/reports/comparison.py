"""From runs as they were read to runs beside each other: told apart, ranked on the same rows, paired."""

from __future__ import annotations

import os.path
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from summarizer.console.secrets import redact
from summarizer.evaluation.metrics import RowShares, Scores, score_pairs
from summarizer.evaluation.pipeline import best_against
from summarizer.evaluation.predictions import Prediction, RowFaithfulness
from summarizer.evaluation.record import (
    BERTSCORE,
    ENTAILMENT,
    FAITHFULNESS,
    VARIANTS,
    Difference,
    Interval,
    RougeTokenizer,
)
from summarizer.evaluation.statistics import compare_shares, same_rows
from summarizer.reports.compared import Comparison, Row, TextScores, compared_run
from summarizer.reports.compared_sweeps import compared_sweeps
from summarizer.runs.read_runs import RowSet, RunFiles, first_known, from_files, row_sets
from summarizer.runs.record import SUMMARY
from summarizer.runs.settings import Value, differing, flat, from_overrides, names, overridden
from summarizer.sweeps.record import FILE_NAME as SWEEP

LOSS = "val/loss"
RANKINGS = (LOSS, *VARIANTS)
"""What runs can be ranked by: loss is best low, ROUGE best high."""
BOOTSTRAP_SAMPLES, SEED = 1000, 0
"""As conf/evaluation/default.yaml has them for a run's own intervals."""
ROWS_SHOWN = 20
"""How many rows of each row set have their summaries on the page."""
JUDGED_BY = {ENTAILMENT: "nli", BERTSCORE: "bertscore"}
"""Scores by a model that the config names, and its key below `evaluation`."""
SAME_SCORE = 0.005
"""Percent: less than a score shows. Scores of the same texts that lie further apart were not made alike."""


def compare_runs(
    runs: Sequence[RunFiles],
    *,
    by: str,
    with_articles: bool,
    problems: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """The comparison of at least one run.

    by: one of RANKINGS.
    with_articles: look for the shown rows' articles, which takes reading the data's files.
    problems, notes: what finding and reading the runs has brought up.
    """
    problems = dict(problems or {})
    sets = row_sets(runs)
    kept = [
        flat(run.record.config)
        if run.record.config
        else from_overrides([redact(override) for override in run.record.overrides])
        for run in runs
    ]
    overrides = [run.record.overrides for run in runs]
    swept = _swept(runs)
    of_runs = names([run.source for run in runs], _groups(runs, sets), kept, overrides, swept)
    named = dict(zip(of_runs, runs, strict=True))
    config_of = dict(zip(named, kept, strict=True))
    set_of = dict(zip(named, sets, strict=True))
    by_set = _by_set(set_of, named, by)
    shown = {row_set: _shown_rows([named[name] for name in members]) for row_set, members in by_set.items()}
    texts: dict[RowSet | None, TextScores] = {
        row_set: score_texts(_to_score(members, named, shown[row_set]), row_set.tokenizer)
        for row_set, members in by_set.items()
    }
    paired = {
        row_set: _paired(members, named, texts[row_set], problems) for row_set, members in by_set.items()
    }
    in_order = [name for members in by_set.values() for name in members]
    in_order += [name for name in named if set_of[name] is None]
    sweeps = compared_sweeps(runs, problems)
    return Comparison(
        sweeps=sweeps,
        runs=tuple(
            compared_run(name, named[name], config_of[name], set_of[name], shown, texts.get(set_of[name], {}))
            for name in in_order
        ),
        swept=differing(kept, overrides, swept),
        row_sets=tuple(by_set),
        best={
            row_set: members[0]
            for row_set, members in by_set.items()
            if _cost(named[members[0]], by) is not None
        },
        ranked_by=by,
        against_best={name: found for of_set in paired.values() for name, found in of_set.items()},
        rows={
            row_set: _rows([named[name] for name in by_set[row_set]], row_set, rows, with_articles)
            for row_set, rows in shown.items()
        },
        problems=problems,
        notes=(*notes, *_notes(by_set, config_of), *_other_judges(by_set, named)),
    )


def _swept(runs: Sequence[RunFiles]) -> set[str]:
    """The keys that sweeps among the runs went through: what runs of one sweep override differently."""
    sweeps: dict[Path, list[frozenset[str]]] = {}
    for run in runs:
        if (run.folder.parent / SWEEP).is_file():
            sweeps.setdefault(run.folder.parent, []).append(frozenset(run.record.overrides))
    return {
        key
        for of_sweep in sweeps.values()
        for key in overridden([sorted(frozenset.union(*of_sweep) - frozenset.intersection(*of_sweep))])
    }


def _groups(runs: Sequence[RunFiles], sets: Sequence[RowSet | None]) -> list[list[int]]:
    """Runs by their row set; one without scores belongs to those that lie beside it, as in a sweep."""
    beside: dict[str, RowSet] = {}
    for run, row_set in zip(runs, sets, strict=True):
        if row_set is not None:
            beside.setdefault(os.path.dirname(run.source), row_set)
    groups: dict[RowSet | None, list[int]] = {}
    for i, (run, row_set) in enumerate(zip(runs, sets, strict=True)):
        groups.setdefault(row_set or beside.get(os.path.dirname(run.source)), []).append(i)
    return list(groups.values())


def _by_set(
    set_of: Mapping[str, RowSet | None], named: Mapping[str, RunFiles], by: str
) -> dict[RowSet, list[str]]:
    """Names of the runs on each row set, the best first; the set with most runs first."""
    counts = Counter(row_set for row_set in set_of.values() if row_set is not None)

    def place(name: str) -> tuple[bool, float]:
        cost = _cost(named[name], by)
        return cost is None, cost or 0.0

    return {
        row_set: sorted((name for name in named if set_of[name] == row_set), key=place)
        for row_set, _ in counts.most_common()
    }


def _cost(run: RunFiles, by: str) -> float | None:
    """The score with the sign by which lower is better; None where the run does not have it."""
    if by == LOSS:
        return run.record.val_loss
    return None if run.record.rouge is None else -run.record.rouge[by].value


def _shown_rows(runs: Sequence[RunFiles]) -> list[Prediction]:
    """The first rows of the best run that has its summaries."""
    return list(next((run.predictions for run in runs if run.predictions), ())[:ROWS_SHOWN])


def _to_score(
    members: Sequence[str], named: Mapping[str, RunFiles], shown: Sequence[Prediction]
) -> list[list[Prediction]]:
    """All rows of the runs that are paired, and the shown rows of the others and of bases, of one row set."""
    parts = []
    ids = {row.id for row in shown}
    whole = [name for name in members if named[name].predictions]
    for name in members:
        run = named[name]
        if len(whole) > 1 and name in whole:
            parts.append(list(run.predictions))
        else:
            parts.append([row for row in run.predictions if row.id in ids])
        parts.append([row for row in run.base_predictions if row.id in ids])
    return parts


def _paired(
    members: Sequence[str],
    named: Mapping[str, RunFiles],
    texts: TextScores,
    problems: dict[str, str],
) -> dict[str, dict[str, Difference]]:
    """The best run against the others that have summaries of all rows, which score what their records say."""
    whole = [name for name in members if named[name].predictions]
    if len(whole) < 2:
        return {}
    sound: dict[str, Sequence[Prediction]] = {}
    for name in whole:
        run = named[name]
        says = _differs(texts, run.predictions, run.record.rouge)
        if says is None:
            sound[name] = run.predictions
        else:
            split = run.record.split
            problems[f"{run.source}/predictions/{split}.jsonl"] = f"{says}; the run is not paired with others"
    if members[0] not in sound or len(sound) < 2:
        return {}
    best = members[0]
    found = against(best, sound, texts)
    shares = {
        name: _shares(predictions, named[name].faithfulness)
        for name, predictions in sound.items()
        if named[name].faithfulness
    }
    if best in shares:
        ordered = {(best, name): (shares[best], of) for name, of in shares.items() if name != best}
        for difference in compare_shares(ordered, samples=BOOTSTRAP_SAMPLES, seed=SEED):
            metric, judges = difference.metric, (named[best], named[difference.second])
            if len({_judge(run, metric) for run in judges}) == 1:
                found[difference.second][metric] = difference
    return found


def _judge(run: RunFiles, metric: str) -> object:
    """The folder of the model that a score is by; None for one that is by the base model or by rules."""
    key = JUDGED_BY.get(metric)
    return None if key is None else run.record.config.get("evaluation", {}).get(key)


def _shares(
    predictions: Sequence[Prediction], faithfulness: Mapping[str, RowFaithfulness]
) -> dict[str, RowShares]:
    """A run's scores of faithfulness by row, in the order of the rows' ids, as all runs of a row set have them."""
    rows = [faithfulness[row_id] for row_id in sorted(row.id for row in predictions)]
    known = [name for name in FAITHFULNESS if all(name in row.scores for row in rows)]
    return {
        name: RowShares(
            np.array([row.scores[name][0] for row in rows]), np.array([row.scores[name][1] for row in rows])
        )
        for name in known
    }


def _differs(
    texts: TextScores, predictions: Sequence[Prediction], said: Mapping[str, Interval] | None
) -> str | None:
    """How the summaries do not score what the run's own summary says; None where they do."""
    if said is None:
        return None
    for variant, values in _per_row(texts, predictions).items():
        known: float = said[variant].value
        if abs(float(values.mean()) - known) > SAME_SCORE:
            return f"these summaries score {values.mean():.2f} {variant}, but {SUMMARY} says {known:.2f}"
    return None


def _rows(
    runs: Sequence[RunFiles], row_set: RowSet, shown: Sequence[Prediction], with_articles: bool
) -> tuple[Row, ...]:
    known: list[Mapping[str, str]] = [run.articles for run in runs]
    missing = {row.id: row.reference for row in shown if not any(row.id in of for of in known)}
    if with_articles and missing:
        known.append(from_files(runs[0].record.config, row_set.split, missing))
    return tuple(
        Row(row.id, row.reference, first_known(known, row.id) if with_articles else None) for row in shown
    )


def _notes(by_set: Mapping[RowSet, Sequence[str]], config_of: Mapping[str, Mapping[str, Value]]) -> list[str]:
    notes = []
    if len(by_set) > 1:
        notes.append(
            "Runs that were scored on different rows stand in tables of their own: their scores do not compare."
        )
    if len({row_set.tokenizer for row_set in by_set}) > 1:
        notes.append(
            "ROUGE by different tokenizers does not compare, even on the same rows: such runs stand in tables of "
            "their own, which name it."
        )
    for members in by_set.values():
        models = {config_of[name].get("model.name_or_path") for name in members}
        if len(models - {None}) > 1:
            notes.append(
                "A loss is per token of the model's own tokenizer: between different models compare ROUGE alone "
                "(--by rougeLsum)."
            )
            break
    return notes


def _other_judges(by_set: Mapping[RowSet, Sequence[str]], named: Mapping[str, RunFiles]) -> list[str]:
    """Which scores of one table are by different models."""
    return [
        f"{metric} is by different models (evaluation.{key}): it does not compare, and has no p."
        for metric, key in JUDGED_BY.items()
        if any(
            len({_judge(named[name], metric) for name in members} - {None}) > 1 for members in by_set.values()
        )
    ]


def score_texts(parts: Sequence[Sequence[Prediction]], tokenizer: RougeTokenizer) -> TextScores:
    """Each distinct pair of a prediction and a reference, scored once, so that every core has work."""
    pairs = list(dict.fromkeys((row.prediction, row.reference) for part in parts for row in part))
    scores = score_pairs([pair[0] for pair in pairs], [pair[1] for pair in pairs], tokenizer=tokenizer)
    columns = {variant: values.tolist() for variant, values in scores.items()}
    return {pair: {variant: columns[variant][i] for variant in VARIANTS} for i, pair in enumerate(pairs)}


def _per_row(texts: TextScores, predictions: Sequence[Prediction]) -> dict[str, NDArray[np.float64]]:
    """Each row's ROUGE by variant, shape (rows,)."""
    found = [texts[row.prediction, row.reference] for row in predictions]
    return {variant: np.array([row[variant] for row in found]) for variant in VARIANTS}


def against(
    best: str, runs: Mapping[str, Sequence[Prediction]], texts: TextScores
) -> dict[str, dict[str, Difference]]:
    """The best run minus each other one, by ROUGE variant, adjusted by Holm over all of them.

    runs: predictions of all rows, by run, the best's among them.
    Rows whose ids occur twice are paired as they stand, where both runs have them in one order.
    """
    ids = _distinct([row.id for row in runs[best]])
    of_run: dict[str, Scores] = {}
    for name, predictions in runs.items():
        order = same_rows(ids, _distinct([row.id for row in predictions]))
        per_row = {variant: values[order] for variant, values in _per_row(texts, predictions).items()}
        of_run[name] = Scores({}, per_row=per_row)
    others = {name: found for name, found in of_run.items() if name != best}
    by_run: dict[str, dict[str, Difference]] = {}
    for difference in best_against(best, others, of_run[best], samples=BOOTSTRAP_SAMPLES, seed=SEED):
        by_run.setdefault(difference.second, {})[difference.metric] = difference
    return by_run


def _distinct(ids: Sequence[str]) -> list[str]:
    """The ids, or numbers where one occurs twice; row sets then hold runs of one order alone."""
    return list(ids) if len(set(ids)) == len(ids) else [str(i) for i in range(len(ids))]
