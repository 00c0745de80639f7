"""Decoding by `transformers.generate`, for models that are none of ours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers

from summarizer.config.schema import GenerationConfig
from summarizer.generation.sampling import until
from summarizer.models.transformers_model import TransformersModel


def generate(
    model: TransformersModel,
    prompts: Sequence[Sequence[int]],
    spec: GenerationConfig,
    *,
    trials: int,
    end_id: int,
    pad_id: int,
    device: torch.device,
) -> list[list[list[int]]]:
    """Token ids after each prompt, end token and padding left out: [trial][prompt][token].

    Every trial of the group answers the same prompts. Prompts are padded on the left and masked, so that a
    batch gives what each prompt alone gives. Sampling draws from `spec.seed` and leaves the global generator
    alone.
    """
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(spec.seed)
        out = model.generate(
            input_ids=ids.repeat(trials, 1).to(device),
            attention_mask=mask.repeat(trials, 1).to(device),
            generation_config=generation_config(spec, end_id=end_id, pad_id=pad_id),
        )
    answers = [until(row, end_id) for row in out[:, width:].tolist()]
    return [answers[trial * len(prompts) : (trial + 1) * len(prompts)] for trial in range(trials)]


def generation_config(spec: GenerationConfig, *, end_id: int, pad_id: int) -> transformers.GenerationConfig:
    """The spec in transformers' own terms. Sampling options are left out of greedy and beam search."""
    sampling = (
        {"temperature": spec.temperature, "top_p": spec.top_p, "top_k": spec.top_k} if spec.do_sample else {}
    )
    beams = (
        {"length_penalty": spec.length_penalty, "early_stopping": spec.early_stopping}
        if spec.num_beams > 1
        else {}
    )
    return transformers.GenerationConfig(
        max_new_tokens=spec.max_new_tokens,
        min_new_tokens=spec.min_new_tokens,
        num_beams=spec.num_beams,
        no_repeat_ngram_size=spec.no_repeat_ngram_size,
        do_sample=spec.do_sample,
        eos_token_id=end_id,
        pad_token_id=pad_id,
        **sampling,
        **beams,
    )
