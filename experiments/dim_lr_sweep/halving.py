"""What successive halving would have done to a full grid that was trained: what it saves, and whom it finds.

    python experiments/dim_lr_sweep/halving.py SWEEP_FOLDER

It replays the grid's own evaluations, all runs having a place at once. A run's values do not depend on who trains
beside it, so that these are the values that a sweep with `sweep.stopping=successive_halving` would have seen.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from summarizer.console.progress import console
from summarizer.reports import sentences
from summarizer.runs.settings import sweep_axes
from summarizer.sweeps.record import SweepRecord, read_sweep
from summarizer.tracking.metrics import read_metrics
from summarizer.training.scheduler import SuccessiveHalving

FACTORS, FIRST_RUNGS = (2, 3, 4), (1, 2)


@dataclass(frozen=True)
class Replay:
    evaluations: int
    """Of all runs together, each after the same number of samples."""
    winner: str
    """The best of the runs that trained to their end."""


def replayed(
    values: dict[str, list[float]], factor: int, first_rung: int, *, lower_is_better: bool
) -> Replay:
    """values: every evaluation of each run of the full grid, in order."""
    halving = SuccessiveHalving(list(values), factor, first_rung, lower_is_better=lower_is_better)
    done = dict.fromkeys(values, 0)
    going = list(values)
    while going:
        for name in going:
            done[name] += 1
        ended = [name for name in going if done[name] == len(values[name])]
        for name in going:
            rung = halving.rung_at(done[name])
            if rung is not None:
                halving.report(name, rung, values[name][done[name] - 1])
        for name in ended:
            halving.finish(name)
        for name in halving.promotable():
            halving.promote(name)
        going = [name for name in values if name not in ended and not halving.is_paused(name)]
        going = [name for name in going if done[name] < len(values[name])]
        if not going and (name := halving.best_paused()):
            halving.promote(name)
            going = [name]
    finished = [name for name in values if done[name] == len(values[name])]
    sign = 1 if lower_is_better else -1
    return Replay(sum(done.values()), min(finished, key=lambda name: sign * best(values[name], sign)))


def best(values: list[float], sign: int) -> float:
    return sign * min(sign * value for value in values)


def evaluations(sweep: Path, record: SweepRecord) -> dict[str, list[float]]:
    found = {}
    for run in record.runs:
        rows = read_metrics(sweep / run.folder / "metrics.jsonl")
        metric = record.metric.name
        found[run.folder] = [row[metric] for row in rows if row["step"] and row.get(metric) is not None]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sweep", type=Path, metavar="SWEEP_FOLDER", help="of a full grid")
    sweep = parser.parse_args().sweep
    record = read_sweep(sweep)
    values = evaluations(sweep, record)
    lower = record.metric.name == "val/loss"
    sign = 1 if lower else -1
    full = sum(map(len, values.values()))
    winner = min(values, key=lambda name: sign * best(values[name], sign))
    differences = sweep_axes(record.runs)
    named = {run.folder: sentences.run_name(run, differences) for run in record.runs}
    table = Table(title=f"{len(values)} runs; the full grid's best is {named[winner]}", title_justify="left")
    for column in ("reduction factor", "first rung", "samples trained", "best run that trained to its end"):
        table.add_column(column)
    for factor in FACTORS:
        for first_rung in FIRST_RUNGS:
            found = replayed(values, factor, first_rung, lower_is_better=lower)
            share = f"{100 * found.evaluations / full:.0f} % of the grid's"
            table.add_row(str(factor), str(first_rung), share, named[found.winner])
    console().print(table)


if __name__ == "__main__":
    main()
