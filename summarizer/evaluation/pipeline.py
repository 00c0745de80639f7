"""From summaries to scores, and from scores to what they show.

Each system's summaries are generated elsewhere (`evaluator.Evaluator`, or files that hold them already). `run` and
`evaluate` score them here, beside the base model's and the extractive baselines', and test the differences, paired
by row; `compare`, whose runs are scored already, has the differences from here alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from summarizer.config.schema import EvaluationConfig
from summarizer.console import progress
from summarizer.evaluation.faithfulness import Claim, all_claims, counted
from summarizer.evaluation.metrics import RowLosses, RowShares, Scores, bootstrap, score
from summarizer.evaluation.predictions import RowFaithfulness
from summarizer.evaluation.record import (
    BERTSCORE,
    VARIANTS,
    Difference,
    RougeTokenizer,
    Statistic,
    SystemPart,
)
from summarizer.evaluation.sentences import split_sentences
from summarizer.evaluation.statistics import compare, compare_shares

if TYPE_CHECKING:
    from summarizer.evaluation.rows import ScoredRows

ADAPTER, BASE, LEAD, RANDOM = "adapter", "base model", "Lead-3", "Random-3"
"""What the systems are called: a trained adapter, the base model without it, and the two extractive baselines."""
BEST_BY = "rougeLsum"
"""Which of several runs the others are compared with: the variant that papers on CNN/DailyMail report."""
SCORERS = ("rouge-score", "numpy")
"""Packages that decide on scores, beside those of a run."""

EncoderScores = Callable[[Sequence[str], Sequence[str]], dict[str, NDArray[np.float64]]]
"""BERTScore of predictions and references, by measure."""
ArticleScores = Callable[[Sequence[str]], dict[str, RowShares]]
"""Scores of `record.FAITHFULNESS` of the summaries of all rows."""


# ---- the extractive baselines: what a summarizer has to beat -----------------------------------------------------


def lead(article: str, sentences: int = 3) -> str:
    """The article's first sentences, one per line: Lead-3, the usual baseline for news.

    Nothing is taken out: CNN's "(CNN)" or "WASHINGTON (CNN) --" stays part of the first sentence, and Daily
    Mail's "By ." counts as a sentence. A shorter article is returned whole.
    Raises ValueError if sentences is below 1.
    Source: the baseline of See et al. 2017 (arXiv:1704.04368), section 5.
    """
    if sentences < 1:
        raise ValueError(f"a lead has at least one sentence, not {sentences}")
    return "\n".join(split_sentences(article)[:sentences])


def random_sentences(article: str, seed: int, row_id: str, sentences: int = 3) -> str:
    """Sentences of the article at random, without repetition, in its order, one per line: Random-3.

    They depend on the seed, the row's id and the article alone, not on which other rows are scored or in which
    order. A shorter article is returned whole.
    Raises ValueError if sentences is below 1.
    """
    if sentences < 1:
        raise ValueError(f"a summary has at least one sentence, not {sentences}")
    split = split_sentences(article)
    generator = random.Random(f"{seed}:{row_id}")
    chosen = generator.sample(range(len(split)), min(sentences, len(split)))
    return "\n".join(split[index] for index in sorted(chosen))


# ---- a run's own end: one adapter, the base model, Lead-3 ------------------------------------------------


def score_summaries(
    summaries: Sequence[str],
    references: Sequence[str],
    evaluation: EvaluationConfig,
    tokenizer: RougeTokenizer,
    losses: RowLosses | None = None,
) -> Scores:
    """Scores with the intervals that a config asks for, ROUGE by that tokenizer."""
    return score(
        summaries,
        references,
        samples=evaluation.bootstrap_samples,
        seed=evaluation.bootstrap_seed,
        tokenizer=tokenizer,
        losses=losses,
    )


def score_lead(
    articles: Sequence[str],
    references: Sequence[str],
    evaluation: EvaluationConfig,
    tokenizer: RougeTokenizer,
) -> Scores:
    """The scores of Lead-3, the first three sentences of each article."""
    return score_summaries([lead(article) for article in articles], references, evaluation, tokenizer)


def with_faithfulness(scores: Scores, articles: Sequence[str], evaluation: EvaluationConfig) -> Scores:
    """The scores with what their summaries say that the articles do not have."""
    found = all_claims(articles, scores.summaries)
    return with_shares(
        replace(scores, claims=found),
        claim_shares(found),
        evaluation.bootstrap_samples,
        evaluation.bootstrap_seed,
    )


def with_shares(scores: Scores, shares: Mapping[str, RowShares], samples: int, seed: int) -> Scores:
    """The scores with further ones of `record.FAITHFULNESS`, given by row."""
    intervals = {name: interval for name, of in shares.items() if (interval := of.interval(samples, seed))}
    return replace(
        scores,
        shares={**scores.shares, **shares},
        faithfulness={**scores.faithfulness, **intervals},
    )


def claim_shares(rows: Sequence[Sequence[Claim]]) -> dict[str, RowShares]:
    """Of each row's names, numbers and quotes those that its article has, in percent."""
    return {kind: RowShares(100 * known, every) for kind, (known, every) in counted(rows).items()}


def faithfulness_rows(ids: Sequence[str], scores: Scores) -> list[RowFaithfulness]:
    """The rows of a file of faithfulness."""
    return [
        RowFaithfulness(
            id=row_id,
            scores={name: (float(of.parts[i]), float(of.of[i])) for name, of in scores.shares.items()},
            missing=[(one.kind, one.start, one.end) for one in found if not one.supported],
        )
        for i, (row_id, found) in enumerate(zip(ids, scores.claims, strict=True))
    ]


def faithfulness_changes(
    systems: Mapping[str, Scores], other: str, evaluation: EvaluationConfig
) -> list[Difference]:
    """The adapter minus another system by their scores of `record.FAITHFULNESS`, adjusted by Holm by themselves."""
    if other not in systems:
        return []
    return compare_shares(
        {(ADAPTER, other): (systems[ADAPTER].shares, systems[other].shares)},
        samples=evaluation.bootstrap_samples,
        seed=evaluation.bootstrap_seed,
    )


def changes(systems: Mapping[str, Scores], other: str, evaluation: EvaluationConfig) -> list[Difference]:
    """The adapter minus another system by the loss and ROUGE; nothing where the other was not scored."""
    if other not in systems:
        return []
    return compare(
        {(ADAPTER, other): (systems[ADAPTER], systems[other])},
        samples=evaluation.bootstrap_samples,
        seed=evaluation.bootstrap_seed,
    )


def best_against(
    best: str, others: Mapping[str, Scores], scores: Scores, *, samples: int, seed: int
) -> list[Difference]:
    """The best system minus each other one by ROUGE, adjusted by Holm over all of them.

    scores: the best system's.
    """
    pairs = {(best, name): (scores, other) for name, other in others.items()}
    with progress.bar("testing differences", len(pairs)) as bar:
        return compare(pairs, samples=samples, seed=seed, metrics=VARIANTS, advance=bar.advance)


# ---- `evaluate`: several systems on chosen rows, with all that can be said of their texts ----------------


@dataclass(frozen=True)
class System:
    """Summaries of all rows, in their order, and where they come from."""

    name: str
    summaries: Sequence[str]
    folder: str | None = None
    """The run's folder; None for what is no run."""
    predictions: str | None = None
    """The path of the file that holds the summaries."""
    settings: Mapping[str, Any] | None = None
    """All that decides on the summaries' words; None for what is no language model."""
    cut_articles: int | None = None
    loss: float | None = None


def extractive_baselines(rows: ScoredRows, seed: int) -> list[System]:
    """Lead-3 and Random-3 of the rows. seed: draws the sentences of Random-3."""
    drawn = [
        random_sentences(article, seed, row_id)
        for article, row_id in zip(rows.articles, rows.ids, strict=True)
    ]
    return [System(LEAD, [lead(article) for article in rows.articles]), System(RANDOM, drawn)]


def score_systems(
    systems: Sequence[System],
    rows: ScoredRows,
    *,
    samples: int,
    seed: int,
    tokenizer: RougeTokenizer,
    by_encoder: EncoderScores | None = None,
    by_article: ArticleScores | None = None,
    mlperf_task: str | None = None,
) -> tuple[list[SystemPart], dict[str, Statistic], list[Difference], list[Difference]]:
    """Each system's scores, the references' own text statistics, and how the best run differs from the others.

    By loss and ROUGE first, then by the scores of `record.FAITHFULNESS`.

    systems: those that have a folder are runs; each has a name of its own.
    samples, seed: of the bootstrap, and the sign flips.  tokenizer: of ROUGE.
    by_article: further scores of `record.FAITHFULNESS` by a model, of the summaries of all rows.
    mlperf_task: the protocol whose task judges the runs too.
    Raises ValueError where a system has not as many summaries as there are rows, or two have one name.
    """
    if len({system.name for system in systems}) != len(systems):
        raise ValueError(f"two systems have one name: {[system.name for system in systems]}")
    scored: dict[str, Scores] = {}
    parts: list[SystemPart] = []
    # The bars of each score are lines inside this one.
    with progress.bar("scoring", len(systems) + 1) as shown:
        for system in systems:
            shown.note(system.name)
            scores = score(
                system.summaries,
                rows.references,
                samples=samples,
                seed=seed,
                tokenizer=tokenizer,
                loss=system.loss,
            )
            shares = claim_shares(all_claims(rows.articles, system.summaries))
            if by_article is not None:
                shares |= by_article(system.summaries)
            scores = with_shares(scores, shares, samples, seed)
            bertscore = None
            statistics = _statistics(rows, system.summaries, samples, seed)
            if by_encoder is not None:
                measured = by_encoder(system.summaries, rows.references)
                bertscore = bootstrap(measured, samples, seed)
                # To be compared too.
                scores = replace(scores, shares=shares | {BERTSCORE: RowShares.of_rows(measured["f1"])})
            scored[system.name] = scores
            verdict = None
            if mlperf_task is not None and system.settings is not None:
                # A run, which scores by this file too, has no such task.
                from summarizer.evaluation import mlperf

                verdict = mlperf.judge(
                    mlperf_task, system.summaries, rows.references, system.cut_articles or 0
                )
            parts.append(
                SystemPart(
                    name=system.name,
                    folder=system.folder,
                    predictions=system.predictions,
                    settings=None if system.settings is None else dict(system.settings),
                    cut_articles=system.cut_articles,
                    loss=system.loss,
                    rouge=dict(scores.rouge),
                    faithfulness=dict(scores.faithfulness),
                    bertscore=bertscore,
                    statistics=statistics,
                    mlperf=verdict,
                )
            )
            shown.advance()
        shown.note("references")
        of_references = _statistics(rows, rows.references, samples, seed)
        shown.advance()
    runs = [system.name for system in systems if system.folder is not None]
    best = max(runs, key=lambda name: scored[name].rouge[BEST_BY].value)
    # Random-3 is left out: what is to be beaten in earnest is Lead-3.
    others = {name: scores for name, scores in scored.items() if name not in (best, RANDOM)}
    differences = best_against(best, others, scored[best], samples=samples, seed=seed)
    pairs = {(best, name): (scored[best].shares, scores.shares) for name, scores in others.items()}
    return parts, of_references, differences, compare_shares(pairs, samples=samples, seed=seed)


def scorer_versions() -> dict[str, str | None]:
    """The versions of the packages that decide on a score, beside those of a run."""
    return {package: metadata.version(package) for package in SCORERS}


def _statistics(rows: ScoredRows, summaries: Sequence[str], samples: int, seed: int) -> dict[str, Statistic]:
    from summarizer.evaluation.text_statistics import mean_statistics, text_statistics

    return mean_statistics(text_statistics(rows.articles, summaries), samples, seed)
