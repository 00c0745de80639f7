"""Generation that tests begin with: greedy, nothing forbidden, nothing asked for; and transformers' own answer."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

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


def transformers_answer(
    model: PreTrainedModel, prompt: list[int], end: int, max_new_tokens: int, pad: int, **options: Any
) -> list[int]:
    """What transformers' `generate` adds to one prompt alone, without padding; cut at the first end token."""
    config = transformers.GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=end, pad_token_id=pad, **({"do_sample": False} | options)
    )
    ids = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), generation_config=config
    )
    new: list[int] = ids[0, len(prompt) :].tolist()
    return new[: new.index(end)] if end in new else new
