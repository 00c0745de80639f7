"""What a run's scores show, in sentences that claim no more than the intervals do."""

from __future__ import annotations

from collections.abc import Sequence

from summarizer.evaluation.metrics import LOSS, VARIANTS
from summarizer.evaluation.statistics import Difference, Verdict, too_few_rows


def sentences(changed: Sequence[Difference], beside_lead: Sequence[Difference]) -> list[str]:
    """changed: from the base alone to the adapter; empty where the base was not scored.

    beside_lead: from Lead-3 to the adapter.
    """
    return [*_gains(changed), *_lead(beside_lead)]


def _gains(changed: Sequence[Difference]) -> list[str]:
    if not changed:
        return ["The base alone was not scored (evaluation.base=false), so that no gain can be told."]
    lines = []
    for change in changed:
        if change.metric == LOSS and change.verdict != "not significant":
            word = "better" if change.verdict == "better" else "worse"
            lines.append(f"The adapter predicts the reference summaries {word} than the base alone does.")
    if not any(change.metric == LOSS for change in changed):
        lines.append("The loss is not a finite number, so that nothing is said of its change.")
    rouge = [change for change in changed if change.metric != LOSS]
    if better := named(rouge, "better"):
        lines.append(f"The summaries it writes are nearer to the references by {listed(better)}.")
    if worse := named(rouge, "worse"):
        lines.append(f"The summaries it writes are further from the references by {listed(worse)}.")
    if unclear := named(changed, "not significant"):
        lines.append(
            f"No change of {listed(unclear, none=True)} is shown: what is seen may be luck in the articles."
        )
    if too_few_rows(changed):
        lines.append(
            f"{articles(changed[0].rows).capitalize()} are too few to show any change: score more of them."
        )
    return lines


def _lead(beside_lead: Sequence[Difference]) -> list[str]:
    lead = "Lead-3, the first three sentences of each article,"
    lines = []
    if behind := named(beside_lead, "worse"):
        lines.append(f"{lead} is ahead of it by {listed(behind)}.")
        lead = "Lead-3"
    if ahead := named(beside_lead, "better"):
        lines.append(f"{lead} is behind it by {listed(ahead)}.")
        lead = "Lead-3"
    if unclear := named(beside_lead, "not significant"):
        lines.append(f"{lead} is not shown to differ from it by {listed(unclear, none=True)}.")
    return lines


def named(found: Sequence[Difference], verdict: Verdict) -> list[str]:
    """The metrics of which that is the verdict."""
    return [change.metric for change in found if change.verdict == verdict]


def listed(metrics: Sequence[str], *, none: bool = False) -> str:
    """`loss and rouge1`; all of ROUGE's by one name. none: after a "no", where it is `loss or rouge1`."""
    if set(VARIANTS) <= set(metrics):
        every = "any of the four ROUGE scores" if none else "all four ROUGE scores"
        metrics = [*(name for name in metrics if name not in VARIANTS), every]
    *first, last = metrics
    return f"{', '.join(first)} {'or' if none else 'and'} {last}" if first else last


def articles(count: int) -> str:
    return f"{count:,} article{'' if count == 1 else 's'}"
