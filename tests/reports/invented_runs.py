"""Run folders with invented texts whose scores are what rouge-score makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from summarizer.evaluation.metrics import bootstrap, score_pairs
from summarizer.evaluation.predictions import Prediction, write_predictions
from summarizer.evaluation.record import VARIANTS, Interval
from summarizer.runs.record import BaseScores, RunRecord, write_summary
from summarizer.tracking.metrics import MetricsFile

WORDS = [
    "the",
    "council",
    "mayor",
    "voted",
    "water",
    "storm",
    "bridge",
    "school",
    "price",
    "police",
    "train",
    "fire",
    "hospital",
    "match",
]


def texts(seed: int, rows: int, words: int = 12) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, words)) for _ in range(rows)]


def make_run(
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    loss: float | None = 3.0,
    likeness: float = 0.3,
    rows: int = 12,
    references: int = 0,
    seed: int = 1,
    lead: float = 40.0,
    split: str = "validation",
    summary: Mapping[str, Any] | None = None,
) -> Path:
    """A completed run, whose summaries have that share of the reference's words at their beginning.

    references: seed of the rows.  lead: Lead-3's ROUGE.
    """
    (folder / ".hydra").mkdir(parents=True)
    config: dict[str, Any] = {
        "model": {"name_or_path": "tiny"},
        "adapter": {"dim": 2, "alpha": None},
        "optimizer": {"lr": 1e-4, "betas": [0.9, 0.999]},
        "data": {"source": "files", "validation": "gone.jsonl"},
        "tracking": {"name": str(folder)},
    }
    composed = OmegaConf.merge(config, OmegaConf.from_dotlist([o for o in overrides if "." in o]))
    OmegaConf.save(composed, folder / ".hydra" / "config.yaml")
    OmegaConf.save(OmegaConf.create(list(overrides)), folder / ".hydra" / "overrides.yaml")
    wanted, own = texts(references, rows), texts(seed, rows)
    predictions = []
    for i, (reference, other) in enumerate(zip(wanted, own, strict=True)):
        keep = round(likeness * 12)
        text = " ".join(reference.split()[:keep] + other.split()[keep:])
        predictions.append(Prediction(f"row{i}", text, reference))
    write_predictions(folder / "predictions" / f"{split}.jsonl", predictions)
    per_row = score_pairs([row.prediction for row in predictions], wanted, show=False)
    levels = dict.fromkeys(VARIANTS, Interval(lead, lead - 1, lead + 1))
    metrics = MetricsFile(folder / "metrics.jsonl")
    for step in range(3):
        metrics.log({"step": step, "val/loss": 5.0 - step, "train/loss": 6.0 - step})
    values: dict[str, Any] = {
        "status": "completed",
        "ended_by": "epochs",
        "overrides": list(overrides),
        "seed": 0,
        "steps": 2,
        "best_step": 2,
        "wall_s": 65.0,
        "tokens_per_s": 100.0,
        "peak_memory_bytes": 2**30,
        "trainable_parameters": 1000,
        "val_loss": loss,
        "rouge": bootstrap(per_row, 100, 0),
        "baseline": levels,
        "base": BaseScores(val_loss=4.0, rouge=levels),
        "split": split,
        "rows": rows,
        "model": "tiny",
        "quantization": "int8",
        "versions": {},
        **(summary or {}),
    }
    write_summary(folder, RunRecord(**values))
    return folder


def without_scores(folder: Path, overrides: Sequence[str] = (), **summary: Any) -> Path:
    """A run that ended before it was scored."""
    make_run(folder, overrides)
    nothing = dict.fromkeys(("val_loss", "rouge", "baseline", "base", "split", "rows"))
    values = {"status": "failed", "ended_by": "error", "overrides": list(overrides), "seed": 0}
    write_summary(
        folder,
        RunRecord(
            **{**values, **nothing, "model": "tiny", "quantization": "int8", "versions": {}, **summary}
        ),
    )
    return folder
