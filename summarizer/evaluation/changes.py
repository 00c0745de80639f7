"""What one system changed over another on the same rows, and of that what is more than luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from summarizer.evaluation.rouge import VARIANTS
from summarizer.evaluation.row_losses import loss_difference
from summarizer.evaluation.scores import Scores
from summarizer.evaluation.significance import Difference, compare, holm

LOSS = "loss"
LEVEL = 0.05
"""Of Holm's adjusted p values, below which a change counts as shown."""

Verdict = Literal["better", "worse", "not shown"]


@dataclass(frozen=True)
class Change:
    """Of one metric, from an earlier system to a later one."""

    metric: str
    """`loss` or one of ROUGE's variants."""
    difference: Difference
    """Later minus earlier, paired by row, with `p_adjusted` over all the changes it stands among."""
    better_rows: int
    """On which the later one is better."""
    equal_rows: int

    @property
    def verdict(self) -> Verdict:
        """Shown is what both the paired interval and the adjusted p value say."""
        mean, p = self.difference.mean, self.difference.p_adjusted
        assert p is not None
        if p >= LEVEL or mean.low <= 0 <= mean.high:
            return "not shown"
        return "better" if (mean.value < 0) == (self.metric == LOSS) else "worse"


def changes(earlier: Scores, later: Scores, *, samples: int, seed: int) -> list[Change]:
    """Of the loss, where both have one that is finite, and of each of ROUGE's variants.

    The rows of both stand in the same order. samples, seed: of the bootstrap, and of the test's signs.
    """
    found: list[tuple[str, Difference, NDArray[np.float64]]] = []
    before, after = earlier.losses, later.losses
    if before and after and np.isfinite(before.nats).all() and np.isfinite(after.nats).all():
        difference = loss_difference(after, before, samples=samples, seed=seed)
        found.append((LOSS, difference, before.nats - after.nats))
    ids = [str(row) for row in range(len(later.summaries))]
    rouge = compare(later.per_row, earlier.per_row, first_ids=ids, second_ids=ids, samples=samples, seed=seed)
    found += [(name, rouge[name], later.per_row[name] - earlier.per_row[name]) for name in VARIANTS]
    adjusted = holm([difference.p_value for _, difference, _ in found])
    return [
        Change(
            name,
            Difference(difference.mean, difference.p_value, p, difference.rows),
            better_rows=int((gains > 0).sum()),
            equal_rows=int((gains == 0).sum()),
        )
        for (name, difference, gains), p in zip(found, adjusted, strict=True)
    ]


def named(found: Sequence[Change], verdict: Verdict) -> list[str]:
    """The metrics of which that is the verdict."""
    return [change.metric for change in found if change.verdict == verdict]
