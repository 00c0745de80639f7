"""Curves for the page: means of neighboring steps where there are more of them than a screen can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from summarizer.comparing.compared import ComparedRun, Point

MOST_PER_CURVE = 400
"""Points: a chart is some 400 to 900 pixels wide."""
MOST_IN_ALL = 60_000
"""Points of all curves of a page, which keeps 200 long runs under 2 MB."""
FEWEST_PER_CURVE = 50


def points_per_curve(runs: Sequence[ComparedRun]) -> int:
    """How many points each curve may have."""
    curves = sum(len(run.history) for run in runs)
    return min(MOST_PER_CURVE, max(FEWEST_PER_CURVE, MOST_IN_ALL // max(curves, 1)))


def thinned(history: Sequence[Point], most: int) -> dict[str, Any]:
    """At most about `most` points. Of more, neighbors are averaged: `meanOf` says how many points stand in one.

    The last step always stands for itself. A value that is not finite is null and makes its mean null.
    """
    size = math.ceil(len(history) / most)
    last = history[-1:]
    groups = [history[i : i + size] for i in range(0, len(history), size)]
    if size > 1 and len(groups[-1]) > 1:
        groups[-1:] = [groups[-1][:-1], last]
    means = [fmean(point.value for point in group) for group in groups]
    return {
        "steps": [group[-1].step for group in groups],
        "values": [float(f"{mean:.5g}") if math.isfinite(mean) else None for mean in means],
        "meanOf": size,
    }
