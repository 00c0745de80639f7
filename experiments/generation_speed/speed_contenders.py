"""What is measured: contenders by name, and the request that each gets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GPTJ_6B = "gptj_6b"
"""GPT-J-6B's true shapes with random weights."""
RANDOM = "random:"
"""Ahead of a folder: only its config is read, its weights are random."""
EMBEDDED = "embedded:tiny_gptj"

VARIANTS = {
    "ours": ("int8", "int8_reading", "nf4", "nf4_reading", "fp8", "blockwise8", "none"),
    "transformers": ("bf16", "fp32", "fp16", "int8"),
    "ctranslate2": ("int8",),
    "openvino": ("int8", "int4"),
    "llama_cpp": ("q8_0", "q4_0"),
}
"""By engine. Ours: a weight format; those with _reading read prompts in whole numbers.
 transformers: dense, or int8 for LLM.int8() on a GPU."""
ELSEWHERE = ("ctranslate2", "openvino", "llama_cpp")
"""Engines that may live in another environment: --peer-python."""
GPU = {("transformers", "int8"), ("transformers", "fp16")}
"""On a CPU too slow to be of use."""


@dataclass(frozen=True)
class Contender:
    """`ENGINE VARIANT`; on the command line `ENGINE:VARIANT`."""

    engine: str
    variant: str

    def __str__(self) -> str:
        return f"{self.engine} {self.variant}"

    @classmethod
    def parse(cls, text: str) -> Contender:
        """Raises ValueError for a name that is none."""
        engine, _, variant = text.partition(":")
        if engine not in VARIANTS:
            raise ValueError(f"{text!r}: {engine!r} is none of {', '.join(VARIANTS)}")
        if variant not in VARIANTS[engine]:
            raise ValueError(f"{text!r}: {engine} has {', '.join(VARIANTS[engine])}")
        return cls(engine, variant)

    def problem(self, device: str) -> str | None:
        """Why it cannot run on this device."""
        if device == "cpu" and (self.engine, self.variant) in GPU:
            return f"{self} is for a GPU"
        if device == "cuda" and self.engine == "openvino":
            return "openvino has no plugin for this GPU"
        if device == "cuda" and self.engine == "llama_cpp":
            return "llama_cpp is built for the CPU"
        return None


EXACT = Contender("transformers", "fp32")
"""What all are compared with."""


@dataclass(frozen=True)
class Work:
    """What every contender answers. Prompts are token ids."""

    prompts: Sequence[Sequence[int]]
    """One after the other, each timed."""
    new_tokens: int
    articles: Sequence[Sequence[int]] = ()
    """All at once, with beams; none leaves that out."""
    article_tokens: int = 128
    beams: int = 4
    batch: int = 8
    readings: Sequence[Sequence[Sequence[int]]] = ()
    """Batches of prompts of one length, each read at once for their first tokens alone."""
    kl_tokens: int = 0
    """After each prompt, at which the answers' probabilities are compared with fp32's; 0 leaves that out."""
    end_id: int = 0
    """Never chosen, so that every answer is as long as asked for."""
    is_text: bool = False
    """Whether they are words that the model knows, so that its answers can be compared."""


def request(
    contender: Contender,
    folder: Path,
    adapter: Path,
    work: Work,
    device: str,
    threads: int,
    embedding: int,
    reference: Path | None = None,
) -> dict[str, Any]:
    """As `answering.measure` takes it.

    embedding: how many weights the embedding has.  reference: the file of fp32's probabilities, to compare with it;
    where there is none yet, the contender writes it.
    """
    return {
        "engine": contender.engine,
        "variant": contender.variant,
        "folder": str(folder),
        "adapter": str(adapter),
        "device": device,
        "threads": threads,
        "prompts": [list(prompt) for prompt in work.prompts],
        "new_tokens": work.new_tokens,
        "end_id": work.end_id,
        "articles": [list(article) for article in work.articles],
        "article_tokens": work.article_tokens,
        "beams": work.beams,
        "batch": work.batch,
        "readings": [[list(prompt) for prompt in batch] for batch in work.readings],
        "kl_tokens": work.kl_tokens,
        "reference": None if reference is None else str(reference),
        "embedding_weights": embedding,
        "started_s": time.time(),
    }
