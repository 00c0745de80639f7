"""Settings of generation that tests begin with: greedy, nothing forbidden, nothing asked for."""

from __future__ import annotations

from typing import Any

from summarizer.config.schema import GenerationConfig


def greedy(max_new_tokens: int, **changes: Any) -> GenerationConfig:
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": 0,
        "num_beams": 1,
        "length_penalty": 1.0,
        "early_stopping": False,
        "no_repeat_ngram_size": 0,
        "do_sample": False,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "seed": 0,
    }
    return GenerationConfig(**(options | changes))
