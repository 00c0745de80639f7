"""What a paired comparison says, in words that claim no more than was shown."""

from __future__ import annotations

from collections.abc import Sequence

from summarizer.evaluation.pipeline import BEST_BY
from summarizer.evaluation.record import Evaluation
from summarizer.evaluation.statistics import Difference, smallest_p, too_few_rows


def p_text(p: float) -> str:
    """As a sentence has it after `p`: `= 0.034`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def in_words(differences: Sequence[Difference]) -> list[str]:
    """A line for all metrics in which a system is better, worse, or not shown to differ from another.

    Such as "A is better than B by 1.2 rougeL (0.3 to 2.1, p = 0.010)".
    """
    lines: dict[str, list[str]] = {}
    for difference in differences:
        mean = difference.mean
        p = f"p {p_text(difference.p_holm)}"
        if difference.significant:
            sign = 1 if mean.value > 0 else -1
            low, high = sorted((sign * mean.low, sign * mean.high))
            word = "better" if sign > 0 else "worse"
            start = f"{difference.first} is {word} than {difference.second} by "
            part = f"{abs(mean.value):.1f} {difference.metric} ({low:.1f} to {high:.1f}, {p})"
        else:
            start = f"No difference shown between {difference.first} and {difference.second} in "
            part = f"{difference.metric} ({mean.value:+.1f}, {mean.low:.1f} to {mean.high:.1f}, {p})"
        lines.setdefault(start, []).append(part)
    return [f"{start}{', '.join(parts)}." for start, parts in lines.items()]


def about_the_comparisons(evaluation: Evaluation) -> list[str]:
    """How the comparisons were made, and what they cannot show."""
    differences = evaluation.differences
    if not differences:
        return []
    count = len(differences)
    rows = differences[0].rows
    lines = [
        f"Paired over the same {rows:,} row{'' if rows == 1 else 's'}; p by sign flips, two-sided, adjusted by "
        f"Holm over {count} comparison{'' if count == 1 else 's'}."
    ]
    if sum(system.folder is not None for system in evaluation.systems) > 1:
        lines.append(
            f"{differences[0].first} is the best run by {BEST_BY} on these very rows, so that its lead over other "
            "runs is a little flattered."
        )
    if too_few_rows(differences):
        lines.append(
            f"So few rows can hardly show a difference: no p value of theirs is below {smallest_p(rows):.2g} "
            "before Holm."
        )
    return lines
