"""The question that runs are compared for, answered in a sentence, and how sure that answer is in another."""

from __future__ import annotations

from dataclasses import dataclass

from summarizer.comparing.compared import ComparedRun, Comparison, RowSet
from summarizer.evaluation.metrics import Interval, Scores
from summarizer.evaluation.statistics import Difference
from summarizer.scoring.words import p_text


@dataclass(frozen=True)
class Answer:
    """For one row set."""

    headline: str
    certainty: str
    """How far it leads the next, whether that can be luck in the rows, and how base and Lead-3 did."""


def answers(comparison: Comparison) -> list[Answer]:
    """One for each row set with a best run, in order; one that says why there is none, else."""
    found = [
        _answer(comparison, row_set, best)
        for row_set in comparison.row_sets
        if (best := _best(comparison, row_set))
    ]
    if found:
        return found
    count = len(comparison.runs)
    what = "The run has no final score." if count == 1 else f"None of the {count} runs has a final score."
    return [Answer(what, "Without final scores there is no best run.")]


def metric_name(metric: str) -> str:
    """`loss`, `ROUGE-Lsum`."""
    return metric.rpartition("/")[2].replace("rouge", "ROUGE-")


def _best(comparison: Comparison, row_set: RowSet) -> ComparedRun | None:
    name = comparison.best.get(row_set)
    return next((run for run in comparison.runs if run.name == name and run.row_set == row_set), None)


def _answer(comparison: Comparison, row_set: RowSet, best: ComparedRun) -> Answer:
    metric = comparison.ranked_by
    where = f"on {row_set.rows:,} {row_set.split} {'row' if row_set.rows == 1 else 'rows'}"
    scored = [run for run in comparison.runs if run.row_set == row_set and run.scores]
    value = _value(best.scores, metric)
    shown = f"{metric_name(metric)} {value}" if value else f"the best {metric_name(metric)}"
    if len(scored) == 1:
        return Answer(
            f"{best.name} reached {shown} {where}.",
            " ".join(["No other run was scored on these rows.", *_references(best, metric)]),
        )
    word = "lowest" if _lower(metric) else "highest"
    ranking = f"the {word} {metric_name(metric)} of {len(scored)} runs"
    headline = f"{best.name} has {ranking}, {value or 'unknown'}, {where}."
    others = [run for run in scored if run.name != best.name]
    return Answer(headline, " ".join([*_lead(comparison, best, others[0]), *_references(best, metric)]))


def _lead(comparison: Comparison, best: ComparedRun, following: ComparedRun) -> list[str]:
    """How far the best leads the next, and whether that can be luck."""
    metric = comparison.ranked_by
    differences = comparison.against_best.get(following.name, {})
    lines = []
    if _lower(metric):
        first, second = (run.scores.loss if run.scores else None for run in (best, following))
        if first is not None and second is not None:
            lines.append(f"The next, {following.name}, is {second - first:.3f} higher.")
        paired = next((v for v in ("rougeLsum", *differences) if v in differences), None)
        if paired is None:
            return [
                *lines,
                "Whether that is luck in the rows cannot be told: there are no summaries to pair.",
            ]
        begins = f"In {metric_name(paired)} the best minus the next"
        return [*lines, _paired(differences[paired], begins, " by their summaries")]
    if metric not in differences:
        return [
            f"The next is {following.name}; without both runs' summaries the two cannot be paired, so whether "
            "the lead is luck in the rows cannot be told."
        ]
    return [_paired(differences[metric], f"Its lead over the next, {following.name},")]


def _paired(difference: Difference, begins: str, equal_by: str = "") -> str:
    mean, p = difference.mean, p_text(difference.p_holm)
    span = f"{signed(mean.value)} (95 % interval {signed(mean.low)} to {signed(mean.high)}, p {p})"
    rows = f"paired over {difference.rows:,} {'row' if difference.rows == 1 else 'rows'}"
    verdict = (
        "more than luck in the rows explains; luck in the seed is another matter"
        if difference.significant
        else f"it may be luck in the rows, so take the two as equal{equal_by}"
    )
    return f"{begins} is {span}, {rows}: {verdict}."


def _references(best: ComparedRun, metric: str) -> list[str]:
    """What the base alone and Lead-3 reach on the same rows."""
    known = [
        f"{name} {value}"
        for name, scores in (("the base alone", best.base), ("Lead-3", best.lead3))
        if (value := _value(scores, metric))
    ]
    return [f"On the same rows: {', '.join(known)}."] if known else []


def _value(scores: Scores | None, metric: str) -> str | None:
    if scores is None:
        return None
    if _lower(metric):
        return None if scores.loss is None else f"{scores.loss:.3f}"
    interval: Interval | None = scores.rouge.get(metric)
    return None if interval is None else f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _lower(metric: str) -> bool:
    return metric.endswith("loss")


def signed(value: float) -> str:
    """A difference, to be read as the best run minus another one wherever it stands."""
    shown = f"{value:+.2f}".replace("-", "−")
    return "0.00" if shown in ("+0.00", "−0.00") else shown
