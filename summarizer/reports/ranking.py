"""Runs by one number: in which order, in which color, and which two settings span a chart of it.

The pictures of a sweep and the charts of the page both draw what this says, so that they show the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

from summarizer.evaluation.record import FAITHFULNESS, VARIANTS
from summarizer.reports.compared import ComparedRun
from summarizer.reports.sentences import decimals, metric_name, metric_unit, score_name
from summarizer.sweeps.record import LISTED, Metric

FURTHEST = 4
"""What is worse than the best by more than so many times as much as the median is has the color of the worst."""
BEST_METRIC = "trainer.best_metric"
ACROSS, UP = "optimizer.lr", "adapter.dim"
"""The settings of a chart of two, where both differ: as papers draw them."""


@dataclass(frozen=True)
class Ranking:
    """Runs by one number, each known by its index in what was given."""

    order: tuple[int, ...]
    """Runs that completed before others, as tables list them; then the best before others."""
    shares: Mapping[int, float]
    """The color of each run that has one, from 0, the worst, to 1, the best.

    Only what trained to its end is compared, so that nothing else has a color; where nothing did, all have one.
    """
    worst: float | None
    """The number that has the color 0; None where no run has a color."""
    best: float | None
    clipped: bool
    """Whether runs are worse than `worst`, and have its color all the same."""


def ranking(
    numbers: Sequence[float | None], statuses: Sequence[str], *, lower_is_better: bool, decimals: int
) -> Ranking:
    """The ranking of runs by their numbers. decimals: as they are shown; what looks the same has one color."""
    sign = 1 if lower_is_better else -1
    costs = {i: sign * number for i, number in enumerate(numbers) if number is not None}
    order = sorted(
        range(len(numbers)), key=lambda i: (LISTED.index(statuses[i]), i not in costs, costs.get(i, 0.0))
    )
    completed = {i: cost for i, cost in costs.items() if statuses[i] == "completed"}
    compared = completed or costs
    if not compared:
        return Ranking(tuple(order), {}, None, None, clipped=False)
    best, worst = min(compared.values()), max(compared.values())
    limit = best + FURTHEST * (median_low(compared.values()) - best)
    clipped = best < limit < worst
    end = limit if clipped else worst
    if round(end, decimals) == round(best, decimals):
        end = best
    shares = {
        i: 1.0 if end == best else min(max((end - cost) / (end - best), 0.0), 1.0)
        for i, cost in compared.items()
    }
    return Ranking(tuple(order), shares, sign * end, sign * best, clipped)


def spanning(values: Mapping[str, Collection[object]]) -> list[str]:
    """The settings in the order in which charts take them: the first lies along x, the second along y.

    Learning rate and dimension where both differ; else those with most values. Seeds last: what differs between
    them is chance. values: the different values of each setting.
    """
    by_count = sorted(values, key=lambda key: (key == "seed", -len(values[key])))
    both = [key for key in (ACROSS, UP) if key in values]
    return [*both, *(key for key in by_count if key not in both)] if len(both) == 2 else by_count


# ---- the numbers that runs of a comparison end with -------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """A number that runs ended with."""

    id: str
    name: str
    unit: str
    lower: bool
    """Whether lower is better."""
    decimals: int
    of: Callable[[ComparedRun], float | None]


def numbers_of(runs: Sequence[ComparedRun]) -> list[Number]:
    """The numbers that some of the runs have, the scores first."""
    longest_s = max((run.record.wall_s or 0.0 for run in runs), default=0.0)
    unit_s, unit = (3600, "h") if longest_s > 7200 else (60, "min") if longest_s > 120 else (1, "s")

    def rouge(variant: str) -> Number:
        def of(run: ComparedRun) -> float | None:
            return run.scores.rouge[variant].value if run.scores and variant in run.scores.rouge else None

        return Number(variant, score_name(variant), "F1, percent", False, 2, of)

    def faithfulness(name: str) -> Number:
        def of(run: ComparedRun) -> float | None:
            known = run.scores.faithfulness.get(name) if run.scores else None
            return None if known is None else known.value

        return Number(name, name, FAITHFULNESS[name][0], False, 2, of)

    found = [
        Number(
            *("loss", "loss", "nats per token", True, 3),
            lambda run: None if run.scores is None else run.scores.loss,
        ),
        *(rouge(variant) for variant in ("rougeLsum", *(v for v in VARIANTS if v != "rougeLsum"))),
        *(faithfulness(name) for name in FAITHFULNESS),
        *_best_in_training(runs),
        Number("time", "time", unit, True, 1, lambda run: _times(run.record.wall_s, 1 / unit_s)),
        Number("speed", "tokens per second", "", False, 0, lambda run: run.record.tokens_per_s),
        Number(
            *("memory", "peak memory", "MiB", True, 0),
            lambda run: _times(run.record.peak_memory_bytes, 2**-20),
        ),
        Number("size", "trainable parameters", "", True, 0, lambda run: run.record.trainable_parameters),
    ]
    return [number for number in found if any(number.of(run) is not None for run in runs)]


def _best_in_training(runs: Sequence[ComparedRun]) -> list[Number]:
    """What the pictures of a sweep show, where all runs went by one metric."""
    names = {run.config[BEST_METRIC].text for run in runs if BEST_METRIC in run.config}
    if len(names) != 1:
        return []
    metric = Metric.of(names.pop())
    name, unit = f"best {metric_name(metric)}", metric_unit(metric)
    return [
        Number("best", name, unit, metric.best == "min", decimals(metric), lambda run: _best(run, metric))
    ]


def _best(run: ComparedRun, metric: Metric) -> float | None:
    """The best value of a run, as the pictures have it: what failed has none."""
    if run.record.status == "failed":
        return None
    points = [point.value for point in run.history.get(metric.name, ()) if point.step]
    return min(points, key=metric.cost, default=None)


def _times(number: float | None, factor: float) -> float | None:
    return None if number is None else number * factor
