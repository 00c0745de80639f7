"""Every system's scores on the rows, put together once all summaries are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from summarizer.console import progress
from summarizer.evaluation import mlperf
from summarizer.evaluation.baselines import lead, random_sentences
from summarizer.evaluation.measured import Measured, Rows, measured, side_by_side
from summarizer.evaluation.rouge import bootstrap, score_pairs
from summarizer.evaluation.significance import Difference, adjust, compare
from summarizer.evaluation.text_statistics import mean_statistics, text_statistics
from summarizer.runs.record import RougeScores, Score
from summarizer.scoring.record import (
    DifferencePart,
    MlperfFigure,
    MlperfPart,
    StatisticPart,
    SystemPart,
    score_of,
    statistics_of,
)
from summarizer.scoring.rows import ScoredRows
from summarizer.tracking.environment import versions

LEAD, RANDOM = "Lead-3", "Random-3"
BEST_BY = "rougeLsum"
"""Which of several runs the others are compared with: the variant that papers on CNN/DailyMail report."""
SCORERS = ("rouge-score", "numpy")
"""Packages that decide on scores, beside those of a run."""


@dataclass(frozen=True)
class System:
    """Summaries of all rows, in their order, and where they come from."""

    name: str
    summaries: Sequence[str]
    folder: str | None = None
    predictions: str | None = None
    settings: Mapping[str, Any] | None = None
    cut_articles: int | None = None
    loss: float | None = None

    @property
    def is_model(self) -> bool:
        return self.settings is not None


@dataclass(frozen=True)
class Bootstrap:
    samples: int
    seed: int


@dataclass(frozen=True)
class Scores:
    systems: list[SystemPart]
    differences: list[DifferencePart]
    references: dict[str, StatisticPart]


EncoderScores = Callable[[Sequence[str], Sequence[str]], dict[str, NDArray[np.float64]]]
"""BERTScore of predictions and references, by measure."""


def baselines(rows: ScoredRows, seed: int) -> list[System]:
    """What a summarizer has to beat. seed: of Random-3."""
    drawn = [
        random_sentences(article, seed, row_id)
        for article, row_id in zip(rows.articles, rows.ids, strict=True)
    ]
    return [System(LEAD, [lead(article) for article in rows.articles]), System(RANDOM, drawn)]


def score_systems(
    systems: Sequence[System],
    rows: ScoredRows,
    which: Rows,
    resamples: Bootstrap,
    *,
    by_encoder: EncoderScores | None = None,
    by_mlperf: bool = False,
) -> Scores:
    """Scores of all systems, the first of which are the runs, and how the best run differs from the others."""
    scored: list[Measured] = []
    statistics: list[dict[str, StatisticPart]] = []
    encoded: list[dict[str, Score] | None] = []
    with progress.bar(
        "scoring", len(systems) + 1
    ) as shown:  # the bars of each score are lines inside this one
        for system in systems:
            shown.note(system.name)
            per_row = score_pairs(system.summaries, rows.references)
            scored.append(
                measured(system.name, which, per_row, samples=resamples.samples, seed=resamples.seed)
            )
            statistics.append(_statistics(rows, system.summaries, resamples))
            encoded.append(None if by_encoder is None else _by_encoder(by_encoder, system, rows, resamples))
            shown.advance()
        shown.note("references")
        of_references = _statistics(rows, rows.references, resamples)
        shown.advance()
    columns = side_by_side(scored)
    parts = [
        SystemPart(
            name=system.name,
            folder=system.folder,
            predictions=system.predictions,
            settings=None if system.settings is None else dict(system.settings),
            cut_articles=system.cut_articles,
            loss=system.loss,
            rouge=RougeScores.of({variant: column[system.name] for variant, column in columns.items()}),
            bertscore=by_measure,
            statistics=described,
            mlperf=_by_mlperf(system, rows) if by_mlperf and system.is_model else None,
        )
        for system, described, by_measure in zip(systems, statistics, encoded, strict=True)
    ]
    runs = [one for one, system in zip(scored, systems, strict=True) if system.folder is not None]
    return Scores(parts, _differences(runs, scored, rows.ids, resamples), of_references)


def scorer_versions() -> dict[str, str | None]:
    """Of what decides on a score."""
    return versions() | {package: metadata.version(package) for package in SCORERS}


def _statistics(rows: ScoredRows, summaries: Sequence[str], resamples: Bootstrap) -> dict[str, StatisticPart]:
    per_row = text_statistics(rows.articles, summaries)
    return statistics_of(mean_statistics(per_row, resamples.samples, resamples.seed))


def _by_encoder(
    by_encoder: EncoderScores, system: System, rows: ScoredRows, resamples: Bootstrap
) -> dict[str, Score]:
    per_row = by_encoder(system.summaries, rows.references)
    intervals = bootstrap(per_row, resamples.samples, resamples.seed)
    return {measure: score_of(interval) for measure, interval in intervals.items()}


def _differences(
    runs: Sequence[Measured], scored: Sequence[Measured], ids: Sequence[str], resamples: Bootstrap
) -> list[DifferencePart]:
    """The best run against every other system but Random-3, which is to be beaten in earnest by Lead-3 alone."""
    best = max(runs, key=lambda run: run.rouge[BEST_BY].value)
    others = [other for other in scored if other.system not in (best.system, RANDOM)]
    comparisons: dict[str, Mapping[str, Difference]] = {}
    with progress.bar("testing differences", len(others)) as bar:
        for other in others:
            comparisons[other.system] = compare(
                best.per_row,
                other.per_row,
                first_ids=ids,
                second_ids=ids,
                samples=resamples.samples,
                seed=resamples.seed,
            )
            bar.advance()
    return [
        DifferencePart(
            first=best.system,
            second=other,
            metric=metric,
            mean=score_of(difference.mean),
            p_value=difference.p_value,
            p_holm=difference.p_value if difference.p_adjusted is None else difference.p_adjusted,
            rows=difference.rows,
        )
        for other, metrics in adjust(comparisons).items()
        for metric, difference in metrics.items()
    ]


def _by_mlperf(system: System, rows: ScoredRows) -> MlperfPart:
    found = mlperf.mlperf_scores(system.summaries, rows.references)
    verdict = mlperf.verdict(found.rouge, found.gen_len, len(rows.ids))
    return MlperfPart(
        figures=[
            MlperfFigure(
                name=figure.name,
                value=figure.value,
                reference=figure.reference,
                passes={level: figure.passes(level) for level in mlperf.LEVELS},
            )
            for figure in verdict.figures
        ],
        passed={level: verdict.passed(level) for level in mlperf.LEVELS},
        refusal=verdict.refusal,
        sentences_by=found.sentences_by,
        gen_num=found.gen_num,
    )
