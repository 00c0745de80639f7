"""Held-out rows and what a run does with them: evaluations on the way, scores at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from summarizer.config.specs import RunSpec
from summarizer.data.order import EncodedRow
from summarizer.data.splits import Split
from summarizer.evaluation.evaluate import Evaluator
from summarizer.evaluation.rouge import score_pairs
from summarizer.evaluation.scores import Comparison, score, score_lead
from summarizer.tracking.recorder import Recorder
from summarizer.tracking.tracker import SampleSummary


@dataclass(frozen=True)
class HeldOut:
    """Rows of one split with their texts."""

    split: str
    rows: Sequence[EncodedRow]
    articles: Sequence[str]
    references: Sequence[str]

    def first(self, count: int | None) -> HeldOut:
        """The first `count` rows; all for None."""
        return HeldOut(self.split, self.rows[:count], self.articles[:count], self.references[:count])

    def samples(
        self, count: int, summaries: Sequence[str], base: Sequence[str] | None
    ) -> list[SampleSummary]:
        """The first rows as a person judges them."""
        return [
            SampleSummary(
                id=self.rows[i].id,
                article=self.articles[i],
                reference=self.references[i],
                base=None if base is None else base[i],
                prediction=summaries[i],
            )
            for i in range(min(count, len(summaries)))
        ]


def held_out(split: Split, count: int | None = None) -> HeldOut:
    """The first `count` rows of a split; all for None."""
    indices = range(len(split))[:count]
    texts = split.rows.select_columns(["article", "summary"])[list(indices)]
    return HeldOut(split.name, split.encoded(indices), texts["article"], texts["summary"])


def evaluate_on_the_way(
    evaluator: Evaluator,
    spec: RunSpec,
    rows: HeldOut,
    recorders: Sequence[Recorder],
    step: int,
    *,
    base: bool = False,
) -> list[dict[str, float]]:
    """Loss, and ROUGE of a few rows, of each trial (with `base`: of the base, the same for each trial).

    Sample summaries go to each trial's recorder.
    """
    metrics = [
        {"val/loss": loss} for loss in evaluator.losses(rows.first(spec.evaluation.loss_rows).rows, base=base)
    ]
    if spec.evaluation.rows_during_training:
        scored = rows.first(spec.evaluation.rows_during_training)
        for trial, summaries in enumerate(evaluator.summaries(scored.rows, base=base)):
            per_row = score_pairs(summaries, scored.references, show=False)
            metrics[trial].update(
                {f"val/{variant}": float(values.mean()) for variant, values in per_row.items()}
            )
            for recorder in recorders if base else (recorders[trial],):
                recorder.log_samples(step, scored.samples(spec.evaluation.sample_summaries, summaries, None))
    return metrics * len(recorders) if base else metrics


def final_scores(evaluator: Evaluator, spec: RunSpec, rows: HeldOut) -> list[Comparison]:
    """Each trial's scores beside the base's, where the config asks for them, and Lead-3's."""
    losses, summaries = evaluator.losses(rows.rows), evaluator.summaries(rows.rows)
    base = None
    if spec.evaluation.base:
        (loss,), (written,) = (
            evaluator.losses(rows.rows, base=True),
            evaluator.summaries(rows.rows, base=True),
        )
        base = score(written, rows.references, spec.evaluation, loss=loss)
    lead = score_lead(rows.articles, rows.references, spec.evaluation)
    return [
        Comparison(score(written, rows.references, spec.evaluation, loss=loss), base, lead)
        for loss, written in zip(losses, summaries, strict=True)
    ]
