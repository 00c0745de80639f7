"""Held-out rows and what a run does with them: validation during training, scores at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from summarizer.config.schema import EvaluationConfig, RunConfig
from summarizer.data.hold_out import is_confirming
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt
from summarizer.data.splits import Split, build_split
from summarizer.evaluation.bertscore import LoadedBertScore, loaded_bert_score
from summarizer.evaluation.entailment import Entailment, loaded_entailment
from summarizer.evaluation.evaluator import Evaluator
from summarizer.evaluation.likelihood import likelihood_scores
from summarizer.evaluation.metrics import RowLosses, RowShares, Scores, score_pairs
from summarizer.evaluation.pipeline import (
    ADAPTER,
    BASE,
    LEAD,
    score_lead,
    score_summaries,
    with_faithfulness,
    with_shares,
)
from summarizer.evaluation.record import BERTSCORE, ENTAILMENT, RougeTokenizer
from summarizer.evaluation.words import tokenizer_for
from summarizer.tracking.metrics import SampleSummary


@dataclass(frozen=True)
class HeldOut:
    """Rows of one split with their texts."""

    split: str
    rows: Sequence[EncodedRow]
    articles: Sequence[str]
    references: Sequence[str]
    tokenizer: RougeTokenizer
    """What ROUGE's tokens are, one of `evaluation.record.TOKENIZERS`."""

    def first(self, count: int | None) -> HeldOut:
        """The first `count` rows; all for None."""
        return replace(
            self,
            rows=self.rows[:count],
            articles=self.articles[:count],
            references=self.references[:count],
        )

    def at(self, places: Sequence[int]) -> HeldOut:
        """The rows of these numbers, in that order."""
        return replace(
            self,
            rows=[self.rows[i] for i in places],
            articles=[self.articles[i] for i in places],
            references=[self.references[i] for i in places],
        )

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


def held_out(split: Split, tokenizer: RougeTokenizer | Literal["auto"], count: int | None = None) -> HeldOut:
    """The first `count` rows of a split; all for None. tokenizer: of ROUGE; auto is what fits the references."""
    indices = range(len(split))[:count]
    texts = split.rows.columns(["article", "summary"], indices)
    chosen = tokenizer_for(tokenizer, texts["summary"], split.name)
    return HeldOut(split.name, split.encoded(indices), texts["article"], texts["summary"], chosen)


def confirms_on(spec: RunConfig, *, of_sweep: bool) -> Literal["test", "validation"] | None:
    """The split that a run's sweep is confirmed on, where it is at all; of validation it is a part held out.

    of_sweep: whether the run is one of a sweep. One alone, which is not confirmed, holds nothing out unasked.
    """
    wanted = spec.evaluation.confirm_split
    if wanted == "test" and spec.data.test is None:
        return "validation" if of_sweep else None
    return wanted


def choosing(spec: RunConfig, validation: HeldOut, *, of_sweep: bool) -> HeldOut:
    """The validation rows that decide on a run: all that are not held out for confirming."""
    if confirms_on(spec, of_sweep=of_sweep) != "validation" or not (held := _confirming(validation)):
        return validation
    return validation.at([i for i in range(len(validation.rows)) if i not in held])


def confirming_rows(spec: RunConfig, prompt: Prompt, *, of_sweep: bool) -> HeldOut | None:
    """The rows that a sweep is confirmed on: the first of the test split, or those held out of validation.

    None where nothing is confirmed. Raises ConfigError as reading any split does.
    """
    split = confirms_on(spec, of_sweep=of_sweep)
    if split is None:
        return None
    most, wanted = spec.evaluation.confirm_rows, spec.evaluation.rouge_tokenizer
    if split == "validation":
        rows = held_out(build_split(spec.data, "validation", prompt), wanted)
        return rows.at(sorted(_confirming(rows))).first(most)
    limits = spec.data.rows
    limits = limits.model_copy(update={"test": min(limits.test or most, most)})
    return held_out(build_split(spec.data.model_copy(update={"rows": limits}), "test", prompt), wanted)


def _confirming(validation: HeldOut) -> set[int]:
    """Where they stand among the validation rows; nowhere if no row were left that chooses."""
    held = {i for i, article in enumerate(validation.articles) if is_confirming(article)}
    return held if len(held) < len(validation.articles) else set()


@dataclass(frozen=True)
class Judges:
    """Models beside the base that judge the final summaries; None is what was not asked for."""

    entailment: Entailment | None = None
    bertscore: LoadedBertScore | None = None


def build_judges(evaluation: EvaluationConfig, device: str) -> Judges:
    """Those that a config asks for, loaded. Raises ConfigError where a folder holds none."""
    judges = Judges()
    if (nli := evaluation.nli) is not None:
        entailment = loaded_entailment(Path(nli).expanduser(), device=device, key="evaluation.nli")
        judges = replace(judges, entailment=entailment)
    if (encoder := evaluation.bertscore) is not None:
        folder = Path(encoder).expanduser()
        bertscore = loaded_bert_score(folder, None, device=device, key="evaluation.bertscore")
        judges = replace(judges, bertscore=bertscore)
    return judges


@dataclass(frozen=True)
class Validation:
    """An evaluation during training: of one trial, or of the base model."""

    metrics: dict[str, float]
    samples: list[SampleSummary]
    losses: RowLosses


def validation_rows(spec: RunConfig, rows: HeldOut) -> tuple[int, int]:
    """How many rows give the loss, and how many get summaries."""
    every = len(rows.rows)
    wanted = every if spec.evaluation.loss_rows is None else spec.evaluation.loss_rows
    return min(wanted, every), min(spec.evaluation.rows_during_training, every)


def validate(
    evaluator: Evaluator, spec: RunConfig, rows: HeldOut, slots: Sequence[int] | None
) -> list[Validation]:
    """Loss, and ROUGE of a few rows, of each slot's trial; None: of the base model."""
    losses = evaluator.row_losses(rows.first(spec.evaluation.loss_rows).rows, slots)
    if not spec.evaluation.rows_during_training:
        return [Validation({"val/loss": own.mean}, [], own) for own in losses]
    scored = rows.first(spec.evaluation.rows_during_training)
    found = []
    for own, summaries in zip(losses, evaluator.summaries(scored.rows, slots), strict=True):
        per_row = score_pairs(summaries, scored.references, tokenizer=rows.tokenizer, show=False)
        rouge = {f"val/{variant}": float(values.mean()) for variant, values in per_row.items()}
        samples = scored.samples(spec.evaluation.sample_summaries, summaries, None)
        found.append(Validation({"val/loss": own.mean} | rouge, samples, own))
    return found


def score_untrained(
    evaluator: Evaluator, judges: Judges, spec: RunConfig, rows: HeldOut
) -> dict[str, Scores]:
    """What the trials of a group are held against on the final rows, the same for all of them.

    By their names: the base model, where the config asks for it, and Lead-3.
    """
    found: dict[str, Scores] = {}
    if spec.evaluation.base:
        (losses,), (written,) = evaluator.row_losses(rows.rows, None), evaluator.summaries(rows.rows, None)
        found[BASE] = score_summaries(written, rows.references, spec.evaluation, rows.tokenizer, losses)
    found[LEAD] = score_lead(rows.articles, rows.references, spec.evaluation, rows.tokenizer)
    return {name: _faithful(evaluator, judges, spec, rows, scores) for name, scores in found.items()}


def _faithful(evaluator: Evaluator, judges: Judges, spec: RunConfig, rows: HeldOut, scores: Scores) -> Scores:
    """The scores with those of names, numbers and quotes, and with what else was asked for."""
    found = with_faithfulness(scores, rows.articles, spec.evaluation)
    shares: dict[str, RowShares] = {}
    if spec.evaluation.article_gain:
        shares |= likelihood_scores(evaluator, rows.rows, scores.summaries)
    if judges.entailment is not None:
        shares[ENTAILMENT] = RowShares.of_rows(judges.entailment(rows.articles, scores.summaries))
    if judges.bertscore is not None:
        shares[BERTSCORE] = RowShares.of_rows(judges.bertscore(scores.summaries, rows.references)["f1"])
    return with_shares(found, shares, spec.evaluation.bootstrap_samples, spec.evaluation.bootstrap_seed)


def final_scores(
    evaluator: Evaluator,
    judges: Judges,
    spec: RunConfig,
    rows: HeldOut,
    slots: Sequence[int],
    known: Sequence[RowLosses | None],
    untrained: Mapping[str, Scores],
) -> list[dict[str, Scores]]:
    """The scores of each slot's trial on the final rows, by the name ADAPTER, beside the untrained systems'.

    known: each trial's losses on these rows where its validation has measured them.
    """
    unknown = [slot for slot, own in zip(slots, known, strict=True) if own is None]
    measured = iter(evaluator.row_losses(rows.rows, unknown) if unknown else [])
    losses = [next(measured) if own is None else own for own in known]
    summaries = evaluator.summaries(rows.rows, slots)
    scores = [
        score_summaries(written, rows.references, spec.evaluation, rows.tokenizer, own)
        for own, written in zip(losses, summaries, strict=True)
    ]
    return [{ADAPTER: _faithful(evaluator, judges, spec, rows, one), **untrained} for one in scores]
