"""Decoding by `transformers.generate`, for models that are none of ours."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor

from summarizer.config.schema import GenerationConfig
from summarizer.generation.sampling import until
from summarizer.models.transformers_model import TransformersModel

if TYPE_CHECKING:
    from summarizer.generation.decoder import Decoder

log = logging.getLogger(__name__)


def answers(
    decoder: Decoder, model: TransformersModel, prompts: Sequence[Sequence[int]]
) -> Iterator[tuple[int, list[list[int]]]]:
    """What `Decoder.answers` promises, batch by batch; a batch holds only prompts that may be padded together."""
    spec, trials, pad_id, device = decoder.spec, decoder.trials, decoder.pad_id, decoder.adapted.device
    # All rows of `generate` draw from one generator, so that what one draws depends on the others.
    most = 1 if spec.do_sample else decoder.batch_size

    def may_share(first: int, other: int) -> bool:
        if len(prompts[first]) == len(prompts[other]):
            return True
        # Padding counts among the tokens that `generate` keeps from occurring twice.
        return not spec.no_repeat_ngram_size and padding_changes_nothing(
            model, trials=trials, pad_id=pad_id, device=device
        )

    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    while order:
        batch = [index for index in order[:most] if may_share(order[0], index)]
        order = order[len(batch) :]
        written = generate(
            model,
            [prompts[index] for index in batch],
            spec,
            trials=trials,
            end_id=decoder.end_id,
            pad_id=pad_id,
            device=device,
        )
        for place, index in enumerate(batch):
            yield index, [of_trial[place] for of_trial in written]


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
    ids, mask = _padded(prompts, pad_id)
    width = ids.shape[1]
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(spec.seed)
        out: Tensor = model.generate(
            input_ids=ids.repeat(trials, 1).to(device),
            attention_mask=mask.repeat(trials, 1).to(device),
            generation_config=generation_config(spec, end_id=end_id, pad_id=pad_id),
        )
    answers = [until(row, end_id) for row in out[:, width:].tolist()]
    return [answers[trial * len(prompts) : (trial + 1) * len(prompts)] for trial in range(trials)]


def _padded(
    prompts: Sequence[Sequence[int]], pad_id: int
) -> tuple[Int[Tensor, "rows t"], Int[Tensor, "rows t"]]:
    """Prompts as rows that end together, and 1 where a row has a token of its own."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask


PROBED_LENGTHS, PROBED_TOKENS = (4, 11), 4
"""Of two prompts, and how many tokens are written after them, to find out whether they may be written together."""


def padding_changes_nothing(
    model: TransformersModel, *, trials: int, pad_id: int, device: torch.device
) -> bool:
    """Whether a prompt beside a longer one is continued as it is alone, asked once of the model's own numbers.

    It is not where positions are counted from the padding on (BART's decoder), or a state runs through it.
    """
    if model.pads_on_the_left is None:
        rows = int(
            getattr(model.embedding, "num_embeddings", None) or model.config.get_text_config().vocab_size
        )
        short, long = ([(7 * place + 3) % rows for place in range(length)] for length in PROBED_LENGTHS)
        alone = _next_logits(model, [short], trials, pad_id, device)[:, 0]
        beside = _next_logits(model, [long, short], trials, pad_id, device)[:, 1]
        off = float((alone - beside).abs().max())
        model.pads_on_the_left = off <= 1e-3 * float(alone.abs().max())
        if not model.pads_on_the_left:
            log.info(
                "generation: this model's padded prompts are continued otherwise; they are written one by one"
            )
    return model.pads_on_the_left


def _next_logits(
    model: TransformersModel, prompts: Sequence[Sequence[int]], trials: int, pad_id: int, device: torch.device
) -> Float[Tensor, "steps rows v"]:
    """Of a few greedy steps after each prompt, of the first trial."""
    ids, mask = _padded(prompts, pad_id)
    config = transformers.GenerationConfig(
        max_new_tokens=PROBED_TOKENS,
        min_new_tokens=PROBED_TOKENS,
        do_sample=False,
        pad_token_id=pad_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        written = model.generate(
            input_ids=ids.repeat(trials, 1).to(device),
            attention_mask=mask.repeat(trials, 1).to(device),
            generation_config=config,
        )
    return torch.stack([step[: len(prompts)].float() for step in written.logits])


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
