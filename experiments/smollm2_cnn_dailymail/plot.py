"""Draw a run's loss curve: `python experiments/smollm2_cnn_dailymail/plot.py RUN_FOLDER loss.png`."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from summarizer.tracking.metrics import read_metrics

SMOOTHING_STEPS = 20


def main(run: Path, picture: Path) -> None:
    rows = read_metrics(run / "metrics.jsonl")
    steps, losses = zip(
        *[(row["step"], row["train/loss"]) for row in rows if "train/loss" in row], strict=True
    )
    evaluated, val_losses = zip(
        *[(row["step"], row["val/loss"]) for row in rows if "val/loss" in row], strict=True
    )
    means = [
        sum(losses[max(0, i - SMOOTHING_STEPS + 1) : i + 1]) / min(i + 1, SMOOTHING_STEPS)
        for i in range(len(losses))
    ]

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(steps, losses, color="0.8", linewidth=0.8, label="training, each step")
    axes.plot(steps, means, color="C0", label=f"training, mean of {SMOOTHING_STEPS} steps")
    axes.plot(evaluated, val_losses, "o-", color="C1", label="validation")
    axes.set(
        xlabel="optimizer step",
        ylabel="loss (nats per summary token)",
        title="SmolLM2-135M, adapters of dim 2",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
