"""How near an engine's next token is to that of the same weights in fp32: KL divergence, and the same best token.

The reference is transformers in fp32 on the merged weights, which reads each prompt and writes on from it greedily.
Every engine then reads the same prompts, and is given the reference's tokens one by one, by its own way of
decoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors.numpy import load_file, save_file


class Scoring(Protocol):
    """What a `Side` of answering.py has for this."""

    def answer(self, prompt: list[int], new_tokens: int) -> Iterator[int]: ...

    def logits(self, prompt: list[int], given: list[int]) -> Iterator[np.ndarray]: ...


def write_reference(side: Scoring, prompts: list[list[int]], new_tokens: int, file: Path) -> None:
    """Keep an engine's own tokens after each prompt, and the log-probabilities that they were chosen by."""
    tokens = [list(side.answer(prompt, new_tokens)) for prompt in prompts]
    log_probabilities = [
        np.stack([log_softmax(logits) for logits in side.logits(prompt, given)])
        for prompt, given in zip(prompts, tokens, strict=True)
    ]
    kept = {"tokens": np.array(tokens), "log_probabilities": np.array(log_probabilities, dtype=np.float32)}
    save_file(kept, file)


def nearness(side: Scoring, prompts: list[list[int]], file: Path) -> dict[str, Any]:
    """Against a reference of the same prompts. kl: nats, (prompts, tokens); same_best: the same of booleans."""
    kept = load_file(file)
    kl, same = [], []
    for prompt, given, expected in zip(prompts, kept["tokens"], kept["log_probabilities"], strict=True):
        found = list(side.logits(prompt, given.tolist()))
        if len(found) != len(given):
            raise RuntimeError(f"gave logits for {len(found)} tokens, not {len(given)}")
        rows = list(zip(expected.astype(np.float64), found, strict=True))
        kl.append([divergence(row, logits) for row, logits in rows])
        same.append([bool(row.argmax() == logits[: len(row)].argmax()) for row, logits in rows])
    return {"kl": kl, "same_best": same}


def divergence(expected: np.ndarray, logits: np.ndarray) -> float:
    """KL(expected || softmax of logits), in nats. expected: log-probabilities. Further logits are padding."""
    return float((np.exp(expected) * (expected - log_softmax(logits[: len(expected)]))).sum())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In fp64."""
    wide = logits.astype(np.float64)
    wide = wide - wide.max()
    shifted: np.ndarray = wide - np.log(np.exp(wide).sum())
    return shifted
