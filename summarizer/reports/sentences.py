"""What results say, in sentences that claim no more than was shown, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from summarizer.console.amounts import rate_text
from summarizer.console.safe_text import one_line
from summarizer.evaluation.metrics import Scores
from summarizer.evaluation.record import (
    GAIN,
    HARIM,
    LOSS,
    SIGNIFICANCE_LEVEL,
    TOKENIZERS,
    VARIANTS,
    Difference,
    Interval,
    RougeTokenizer,
    Verdict,
)
from summarizer.evaluation.statistics import smallest_p, too_few_rows

if TYPE_CHECKING:  # the end of a run is told without comparing it to others
    from summarizer.reports.compared import ComparedRun, Comparison
    from summarizer.runs.read_runs import RowSet
    from summarizer.runs.record import RunRecord
    from summarizer.runs.settings import SweepAxes
    from summarizer.sweeps.record import Metric, SweepRecord

# ---- words that all sentences share -----------------------------------------------------------------------------


def counted(count: int, what: str) -> str:
    """`1 run`, `1,200 articles`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def score_name(score: str) -> str:
    """`loss`, `ROUGE-Lsum`."""
    return score.rpartition("/")[2].replace("rouge", "ROUGE-")


def about_tokenizer(name: RougeTokenizer) -> str:
    """A tokenizer of ROUGE and what its tokens are: `words (words of letters and ...)`."""
    return f"{name} ({TOKENIZERS[name]})"


def state(run: RunRecord) -> str:
    """How a run stands: `completed`, `stopped, step 20`."""
    if run.status in ("stopped", "running", "failed") and run.steps:
        return f"{run.status}, step {run.steps}"
    return run.status


def signed(value: float) -> str:
    """A difference, to be read as the best run minus another one wherever it stands."""
    shown = f"{value:+.2f}".replace("-", "−")
    return "0.00" if shown in ("+0.00", "−0.00") else shown


def p_text(p: float) -> str:
    """As a sentence has it after `p`: `= 0.034`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def p_values(difference: Difference) -> str:
    """`p = 0.021, after Holm 0.064`: that of the interval and the one that decides; one where they agree."""
    own, adjusted = p_text(difference.p_value), p_text(difference.p_holm)
    return f"p {own}" + ("" if own == adjusted else f", after Holm {adjusted.removeprefix('= ')}")


def listed(metrics: Sequence[str], *, none: bool = False) -> str:
    """`loss and rouge1`; all of ROUGE's by one name. none: after a "no", where it is `loss or rouge1`."""
    if set(VARIANTS) <= set(metrics):
        every = "any of the four ROUGE scores" if none else "all four ROUGE scores"
        metrics = [*(name for name in metrics if name not in VARIANTS), every]
    *first, last = metrics
    return f"{', '.join(first)} {'or' if none else 'and'} {last}" if first else last


def score_digits(score: str) -> int:
    """Digits behind the point, in a sentence or where there is little room: nats have two, percent one."""
    return 2 if score in (GAIN, HARIM) else 1


def about_the_differences(differences: Sequence[Difference], chosen: str | None = None) -> list[str]:
    """How systems were paired, and what that cannot show. chosen: the one that is the best of several runs."""
    if not differences:
        return []
    rows = differences[0].rows
    lines = [
        f"Paired over the same {counted(rows, 'row')}; p is two-sided, by sign flips."
        + (
            " Interval and p are of one comparison by itself; what is significant is decided by p after Holm's "
            f"adjustment for all {len(differences)}."
            if len(differences) > 1
            else ""
        )
    ]
    if chosen is not None:
        lines.append(
            f"{chosen} was chosen on these very rows, which flatters its lead over other runs a little."
        )
    if too_few_rows(differences):
        lines.append(
            f"With so few rows hardly a difference can be significant: no p value is below {smallest_p(rows):.2g} "
            "before Holm."
        )
    return lines


# ---- of a comparison --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a comparison says about one row set."""

    headline: str
    certainty: str
    """How far it leads the next, whether that is significant, and how the base model and Lead-3 did."""


def answers(comparison: Comparison) -> list[Answer]:
    """The answer for each row set with a best run, in order; else one that says why there is none."""
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


def confirmed_answers(comparison: Comparison) -> list[Answer]:
    """What is sure of the sweeps that were confirmed."""
    several = len(comparison.sweeps) > 1
    return [
        Answer(f"{one.source}: {one.answer}" if several else one.answer, " ".join(one.certainty))
        for one in comparison.sweeps
        if one.answer is not None
    ]


def _best(comparison: Comparison, row_set: RowSet) -> ComparedRun | None:
    name = comparison.best.get(row_set)
    return next((run for run in comparison.runs if run.name == name and run.row_set == row_set), None)


def _answer(comparison: Comparison, row_set: RowSet, best: ComparedRun) -> Answer:
    metric = comparison.ranked_by
    where = f"on {counted(row_set.rows, f'{row_set.split} row')}"
    scored = [run for run in comparison.runs if run.row_set == row_set and run.scores]
    value = _value(best.scores, metric)
    shown = f"{score_name(metric)} {value}" if value else f"the best {score_name(metric)}"
    if len(scored) == 1:
        return Answer(
            f"{best.name} reached {shown} {where}.",
            " ".join(["No other run was scored on these rows.", *_references(best, metric)]),
        )
    word = "lowest" if _lower(metric) else "highest"
    ranking = f"the {word} {score_name(metric)} of {len(scored)} runs"
    headline = f"{best.name} has {ranking}, {value or 'unknown'}, {where}."
    others = [run for run in scored if run.name != best.name]
    return Answer(headline, " ".join([*_lead(comparison, best, others[0]), *_references(best, metric)]))


def _lead(comparison: Comparison, best: ComparedRun, following: ComparedRun) -> list[str]:
    """How far the best leads the next, and whether that is significant."""
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
                "Whether that is significant cannot be told: there are no summaries to pair.",
            ]
        begins = f"In {score_name(paired)} the best minus the next"
        return [*lines, _paired(differences[paired], begins, " by their summaries")]
    if metric not in differences:
        return [
            f"The next is {following.name}; without both runs' summaries the two cannot be paired, so whether "
            "the lead is significant cannot be told."
        ]
    return [_paired(differences[metric], f"Its lead over the next, {following.name},")]


def _paired(difference: Difference, begins: str, equal_by: str = "") -> str:
    mean = difference.mean
    interval = f"95 % interval {signed(mean.low)} to {signed(mean.high)}"
    span = f"{signed(mean.value)} ({interval}, {p_values(difference)})"
    rows = f"paired over {counted(difference.rows, 'row')}"
    after_holm = " after Holm's adjustment" if difference.p_value < SIGNIFICANCE_LEVEL else ""
    verdict = (
        f"significant (p < {SIGNIFICANCE_LEVEL:g}); luck in the seed is another matter"
        if difference.significant
        else f"not significant{after_holm}, so take the two as equal{equal_by}"
    )
    return f"{begins} is {span}, {rows}: {verdict}."


def _references(best: ComparedRun, metric: str) -> list[str]:
    """What the base model and Lead-3 reach on the same rows."""
    known = [
        f"{name} {value}"
        for name, scores in (("the base model", best.base), ("Lead-3", best.lead3))
        if (value := _value(scores, metric))
    ]
    lines = [f"On the same rows: {', '.join(known)}."] if known else []
    own, base = (
        None if scores is None else scores.rouge.get("rougeLsum") for scores in (best.scores, best.base)
    )
    if _lower(metric) and own is not None and base is not None and own.value < base.value:
        lines.append(
            f"By {score_name('rougeLsum')} its summaries are behind the base model's, "
            f"{own.value:.2f} to {base.value:.2f}."
        )
    return lines


def _value(scores: Scores | None, metric: str) -> str | None:
    if scores is None:
        return None
    if _lower(metric):
        return None if scores.loss is None else f"{scores.loss:.3f}"
    interval: Interval | None = scores.rouge.get(metric)
    return None if interval is None else f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _lower(metric: str) -> bool:
    return metric.endswith("loss")


# ---- of an evaluation and of a run ------------------------------------------------------------------------------


def in_words(differences: Sequence[Difference]) -> list[str]:
    """A line for all metrics in which a system is significantly better or worse than another, or neither.

    Such as "A is better than B by 1.2 rougeL (0.3 to 2.1, p = 0.010)".
    """
    lines: dict[str, list[str]] = {}
    for difference in differences:
        mean = difference.mean
        digits = score_digits(difference.metric)
        p = p_values(difference)
        if difference.significant:
            sign = 1 if mean.value > 0 else -1
            low, high = sorted((sign * mean.low, sign * mean.high))
            word = "better" if sign > 0 else "worse"
            start = f"{difference.first} is {word} than {difference.second} by "
            part = f"{abs(mean.value):.{digits}f} {difference.metric} ({low:.{digits}f} to {high:.{digits}f}, {p})"
        else:
            start = f"No significant difference between {difference.first} and {difference.second} in "
            span = f"{mean.low:.{digits}f} to {mean.high:.{digits}f}"
            part = f"{difference.metric} ({mean.value:+.{digits}f}, {span}, {p})"
        lines.setdefault(start, []).append(part)
    return [f"{start}{', '.join(parts)}." for start, parts in lines.items()]


def about_the_gain(changed: Sequence[Difference], beside_lead: Sequence[Difference]) -> list[str]:
    """What an adapter gained, in sentences.

    changed: from the base model to the adapter; empty where the base was not scored.
    beside_lead: from Lead-3 to the adapter.
    """
    return [*_gains(changed), *_beside_lead(beside_lead)]


def _gains(changed: Sequence[Difference]) -> list[str]:
    if not changed:
        return ["The base model was not scored (evaluation.base=false), so that no gain can be told."]
    lines = []
    for change in changed:
        if change.metric == LOSS and change.verdict != "not significant":
            word = "better" if change.verdict == "better" else "worse"
            lines.append(f"The adapter predicts the reference summaries {word} than the base model does.")
    if not any(change.metric == LOSS for change in changed):
        lines.append("The loss is not a finite number, so that nothing is said of its change.")
    rouge = [change for change in changed if change.metric != LOSS]
    if better := named(rouge, "better"):
        lines.append(f"The summaries it writes are nearer to the references by {listed(better)}.")
    if worse := named(rouge, "worse"):
        lines.append(f"The summaries it writes are further from the references by {listed(worse)}.")
    if unclear := named(changed, "not significant"):
        lines.append(
            f"No change of {listed(unclear, none=True)} is significant: what is seen may be luck in the articles."
        )
    if too_few_rows(changed):
        lines.append(
            f"{counted(changed[0].rows, 'article').capitalize()} are too few for a significant change: score more "
            "of them."
        )
    return lines


def _beside_lead(beside_lead: Sequence[Difference]) -> list[str]:
    lead = "Lead-3, the first three sentences of each article,"
    lines = []
    if behind := named(beside_lead, "worse"):
        lines.append(f"{lead} is ahead of it by {listed(behind)}.")
        lead = "Lead-3"
    if ahead := named(beside_lead, "better"):
        lines.append(f"{lead} is behind it by {listed(ahead)}.")
        lead = "Lead-3"
    if unclear := named(beside_lead, "not significant"):
        lines.append(f"{lead} does not differ significantly from it by {listed(unclear, none=True)}.")
    return lines


def named(found: Sequence[Difference], verdict: Verdict) -> list[str]:
    """The metrics of which that is the verdict."""
    return [change.metric for change in found if change.verdict == verdict]


# ---- of a sweep -------------------------------------------------------------------------------------------------

LEAST_WITH_EDGES = 3
"""Values of a setting, from which on it says something that the best is the first or the last."""
UNITS = {
    "adapter.dim": "dimension of the low-rank pair",
    "trainer.batch_size": "examples",
    "trainer.epochs": "passes over the data",
    "trainer.max_steps": "optimizer steps",
    "trainer.schedule.warmup_steps": "optimizer steps",
    "trainer.max_grad_norm": "L2 norm",
    "prompt.max_tokens": "tokens",
    "data.rows.train": "rows",
}
"""The units of the keys that are swept most; others go without."""

STOPPED_NOTE = (
    "A stopped run did not train to its end, so it is listed after every run that did, "
    "however good its best value."
)
HALVING_NOTE = (
    "Whether a run that was stopped would have won in the end cannot be told from this sweep; "
    "only the full grid can tell."
)
REFERENCES = {
    "base model": "the model without an adapter",
    "Lead-3": "the first three sentences of each article",
}


def metric_name(metric: Metric) -> str:
    """`validation loss`, `validation ROUGE-1`."""
    split, _, variant = metric.name.rpartition("/")
    words = variant.replace("rouge", "ROUGE-")
    return one_line(f"{split.replace('val', 'validation')} {words}")


def metric_unit(metric: Metric) -> str:
    return "cross-entropy, nats per token" if metric.best == "min" else "F1, percent"


def shown(metric: Metric, value: float) -> str:
    """A value of the metric with as many digits as mean something."""
    return f"{value:.{decimals(metric)}f}"


def decimals(metric: Metric) -> int:
    """Digits behind the point: thousandths of a nat, hundredths of a percent."""
    return 3 if metric.best == "min" else 2


def label(key: str) -> str:
    """A key with its unit."""
    return f"{key} ({UNITS[key]})" if key in UNITS else one_line(key)


def question(metric: Metric, keys: Sequence[str]) -> str:
    """What the sweep asks: `Which adapter.dim and optimizer.lr give the lowest validation loss?`"""
    verb = "give" if len(keys) > 1 else "gives"
    best = "lowest" if metric.best == "min" else "highest"
    return f"Which {_keys(keys)} {verb} the {best} {metric_name(metric)}?"


def course_question(keys: Sequence[str]) -> str:
    """What the loss curves answer: `How does the loss fall with each adapter.dim and optimizer.lr?`"""
    return f"How does the loss fall with each {_keys(keys)}?"


def _keys(keys: Sequence[str]) -> str:
    names = [one_line(key) for key in keys] or ["run"]
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def references_note(record: SweepRecord) -> str:
    """A line that says what the rows without a rank are."""
    systems = dict.fromkeys(one.system for one in record.references)
    listed = "; ".join(f"{system}: {REFERENCES[system]}" for system in systems)
    return f"To compare with, without a rank: {listed}."


def sweep_answer(record: SweepRecord, swept: SweepAxes) -> str:
    """The winner in one line."""
    winner = record.winner
    if winner is None or winner.best is None:
        measured = any(run.best for run in record.runs)
        return "No run that was evaluated came to an end" if measured else "No run has been evaluated"
    line = f"{run_name(winner, swept)}: {shown(record.metric, winner.best.value)} at step {winner.best.step}"
    return f"Best: {line}" if winner.status == "completed" else f"Best so far (no run has completed): {line}"


def edge_notes(record: SweepRecord, swept: SweepAxes) -> list[str]:
    """Where the best run has the lowest or highest learning rate or dimension that was tried: the next to try.

    Of each kind of adapter, since each has a best rate of its own. Only completed runs that are otherwise alike are
    compared, and of three values or more: of two, one is always at the edge.
    """
    completed = [run for run in record.ranked() if run.status == "completed" and run.best is not None]
    notes = []
    best_of: dict[str, RunRecord] = {}
    for run in completed:
        best_of.setdefault(swept.of[run.folder]["adapter"].text if "adapter" in swept.keys else "", run)
    for kind, best in best_of.items():
        for key in (key for key in ("optimizer.lr", "adapter.dim") if key in swept.keys):
            own = swept.of[best.folder]
            alike = [swept.of[run.folder] for run in completed]
            alike = [
                of for of in alike if all(of[other] == own[other] for other in swept.keys if other != key)
            ]
            tried = sorted({number for of in alike if (number := of[key].number) is not None})
            if len(tried) < LEAST_WITH_EDGES or own[key].number not in (tried[0], tried[-1]):
                continue
            highest = own[key].number == tried[-1]
            following = tried[-1] ** 2 / tried[-2] if highest else tried[0] ** 2 / tried[1]
            if key == "adapter.dim":
                if following < 1:
                    continue
                text = f"{following:.0f}"
            else:
                text = rate_text(float(f"{following:.1g}"))
            of_kind = f" for adapter={kind}" if kind else ""
            notes.append(
                f"The best {key}{of_kind}, {own[key].text}, is the {'highest' if highest else 'lowest'} that was "
                f"tried; {key}={text} comes next."
            )
    return notes


def run_name(run: RunRecord, swept: SweepAxes) -> str:
    """A run by what tells it from the others, or by its folder where nothing does."""
    return swept.describe(run) or f"run {run.folder}"


def saving(record: SweepRecord) -> str:
    """What was trained of the full grid, and what successive halving saved of it."""
    trained, full, saved = record.samples, record.full_grid_samples, record.saved_samples
    if trained is None:
        return "How many samples were trained on is not known."
    if trained == full:
        failed = any(run.status == "failed" for run in record.runs)
        return f"Trained on {trained:,} samples{'' if failed else ', the full grid'}."
    line = f"Trained on {trained:,} samples"
    if full is not None:
        line = f"Trained on {trained:,} of the full grid's {full:,} samples ({trained / full:.0%})"
    if not saved:
        return f"{line}."
    return f"{line}; successive halving saved {saved:,}{f' ({saved / full:.0%})' if full else ''}."
