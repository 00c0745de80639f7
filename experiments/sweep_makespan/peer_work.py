"""What the peer's trials are given: the same rows, tokens, order and settings that this project's runs have."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE_NAME = "work.json"
BASES = ("int8", "nf4", "bf16", "autocast", "fp32")
"""The peer's weights: LLM.int8(), nf4 or dense bf16 under bf16 autocast, dense fp32 under bf16 autocast, fp32."""
RESULT = "result.json"
"""What a trial of the peer leaves in its folder."""


@dataclass(frozen=True)
class Example:
    ids: list[int]
    """Prompt and summary."""
    prompt_tokens: int
    """How many of them come ahead of the summary, which the loss is over."""


@dataclass(frozen=True)
class HeldOutRow:
    example: Example
    prompt_ids: list[int]
    """For generation: the article is cut so that the longest summary has room."""
    article: str
    reference: str


@dataclass(frozen=True)
class PeerWork:
    model: str
    """A transformers folder with dense weights and a tokenizer."""
    device: str
    precision: str
    """Of products: bf16, by autocast, or fp32."""
    train: list[Example]
    batches: list[list[int]]
    """The training rows of each optimizer step, in the order of this project's runs."""
    validation: list[HeldOutRow]
    final: list[HeldOutRow]
    evaluate_every: int
    """Optimizer steps between evaluations."""
    loss_rows: int | None
    rows_during_training: int
    score_base: bool
    evaluation_batch: int
    bootstrap_samples: int
    bootstrap_seed: int
    best_metric: str
    optimizer: dict[str, Any]
    """Arguments of Adam8bit but for the rate, which is the trial's."""
    max_grad_norm: float | None
    generation: dict[str, Any]
    """In the terms of transformers' GenerationConfig."""
    generation_seed: int
    end_id: int
    pad_id: int
    wandb_mode: str
    """offline or disabled."""

    def write(self, folder: Path) -> None:
        (folder / FILE_NAME).write_text(json.dumps(asdict(self)), encoding="utf-8")


def read_work(folder: Path) -> PeerWork:
    raw = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    raw["train"] = [Example(**example) for example in raw["train"]]
    for split in ("validation", "final"):
        raw[split] = [HeldOutRow(**{**row, "example": Example(**row["example"])}) for row in raw[split]]
    return PeerWork(**raw)
