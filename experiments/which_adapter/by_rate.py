"""Where each kind's best learning rate lies: the validation loss at one step, as Markdown, a column for each rate.

    python experiments/which_adapter/by_rate.py SWEEP_FOLDER [SWEEP_FOLDER ...] --step 8

The folders are sweeps of the same model on the same rows. Seeds of one setting are averaged; runs that were not
evaluated at that step have no part. The lowest of each line is bold.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from summarizer.runs.settings import Value, sweep_axes
from summarizer.sweeps.record import collect
from summarizer.tracking.metrics import METRICS, read_metrics

KIND, DIM, RATE, LOSS = "adapter", "adapter.dim", "optimizer.lr", "val/loss"
Place = tuple[Value, Value, float]
"""Kind, dimension and rate."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path, help="folders of sweeps")
    parser.add_argument("--step", type=int, required=True, help="of the evaluation")
    options = parser.parse_args()
    print("\n".join(table(by_rate(options.sweeps, options.step))))


def by_rate(sweeps: Sequence[Path], step: int) -> dict[Place, float]:
    """The mean loss over the seeds of each setting."""
    found: dict[Place, list[float]] = {}
    for folder in sweeps:
        swept = sweep_axes(collect(folder).runs)
        for run, of in swept.of.items():
            path = folder / run / METRICS
            for row in read_metrics(path) if path.is_file() else ():
                if row["step"] == step and LOSS in row:
                    rate = of[RATE].number
                    assert rate is not None, f"{path} has no learning rate"
                    found.setdefault((of[KIND], of[DIM], rate), []).append(row[LOSS])
    return {place: mean(losses) for place, losses in found.items()}


def table(losses: dict[Place, float]) -> list[str]:
    rates = sorted({rate for _, _, rate in losses})
    lines = [
        f"| kind | dim | {' | '.join(f'{rate:g}' for rate in rates)} |",
        f"|---|---|{'---|' * len(rates)}",
    ]
    for kind, dim in sorted({(kind, dim) for kind, dim, _ in losses}):
        best = min(loss for (a, b, _), loss in losses.items() if (a, b) == (kind, dim))
        cells = []
        for rate in rates:
            loss = losses.get((kind, dim, rate))
            said = "" if loss is None else f"{loss:.3f}"
            cells.append(f"**{said}**" if loss == best else said)
        lines.append(f"| {kind.text} | {dim.text} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
