"""The final scores of one trial on a split, beside the untrained base's and Lead-3's on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from summarizer.config.schema import EvaluationConfig
from summarizer.evaluation.baselines import lead
from summarizer.evaluation.rouge import Interval, bootstrap, score_pairs
from summarizer.evaluation.row_losses import RowLosses


@dataclass(frozen=True)
class Scores:
    """One system's scores over the rows of a split."""

    losses: RowLosses | None
    """None for a system that is no language model."""
    rouge: Mapping[str, Interval]
    per_row: Mapping[str, NDArray[np.float64]]
    summaries: Sequence[str]

    @property
    def loss(self) -> float | None:
        """Nats per summary token over all rows."""
        return None if self.losses is None else self.losses.mean


@dataclass(frozen=True)
class Comparison:
    """What a trial's adapter gained: its scores beside others' on the same rows."""

    adapter: Scores
    base: Scores | None
    """The base without the adapter; None where the config does not ask for it."""
    lead: Scores
    """Lead-3: the first three sentences of each article."""

    @property
    def systems(self) -> dict[str, Scores]:
        """By the name that a person reads."""
        systems = {"adapter": self.adapter, "base alone": self.base, "Lead-3": self.lead}
        return {name: scores for name, scores in systems.items() if scores is not None}


def score(
    summaries: Sequence[str], references: Sequence[str], spec: EvaluationConfig, *, losses: RowLosses | None
) -> Scores:
    """ROUGE with intervals, by the config's bootstrap."""
    per_row = score_pairs(summaries, references)
    return Scores(losses, bootstrap(per_row, spec.bootstrap_samples, spec.bootstrap_seed), per_row, summaries)


def score_lead(articles: Sequence[str], references: Sequence[str], spec: EvaluationConfig) -> Scores:
    """The scores of Lead-3 on these rows."""
    return score([lead(article) for article in articles], references, spec, losses=None)
