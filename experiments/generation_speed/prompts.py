"""The token ids that every contender reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from speed_contenders import EMBEDDED, GPTJ_6B, RANDOM, Work

from summarizer.config.check import check
from summarizer.config.paths import conf_folder
from summarizer.config.schema import RunConfig
from summarizer.data.prompt import build_prompt
from summarizer.data.splits import build_split
from summarizer.models.load import load_config
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import load_tokenizer

GPTJ_VOCABULARY = 50_257
"""Tokens that have words; the rest of GPT-J's 50,400 rows are padding."""
SUMMARY_ROOM = 1024
"""More tokens than any reference summary has."""


def build_work(
    model: str,
    rows: str | None,
    prompt_tokens: int,
    prompts: int,
    new_tokens: int,
    articles: int,
    article_tokens: int,
    seed: int,
) -> Work:
    """Prompts all of `prompt_tokens`; articles of the same length, or shorter where real ones are.

    Raises ConfigError for a mistake in the model or the rows, ValueError where too few rows are long enough.
    """
    if model == GPTJ_6B or model.startswith(RANDOM):
        size = GPTJ_VOCABULARY
        if model.startswith(RANDOM):
            size = int(load_config(Path(model.removeprefix(RANDOM))).get_text_config().vocab_size)
        drawn = np.random.default_rng(seed).integers(0, size, (prompts + articles, prompt_tokens)).tolist()
        return Work(drawn[:prompts], new_tokens, drawn[prompts:], article_tokens)
    spec = compose_spec(model, rows, prompt_tokens, max(prompts, articles))
    prompt = build_prompt(spec.prompt, load_tokenizer(model_folder(spec.model, weights=False)))
    split = build_split(spec.data, "validation", prompt)
    prompt = replace(prompt, max_tokens=prompt_tokens + 1)
    read = [prompt.generation_ids(row.article_ids, 1) for row in split.encoded(range(len(split)))]
    full = [ids for ids in read if len(ids) == prompt_tokens]
    if len(full) < prompts or len(read) < articles:
        raise ValueError(
            f"{len(full)} of {len(read)} rows fill {prompt_tokens} tokens, too few for {prompts} prompts and "
            f"{articles} articles; take fewer or shorter ones, or other --rows"
        )
    return Work(
        full[:prompts], new_tokens, read[:articles], article_tokens, end_id=prompt.end_id, is_text=True
    )


def build_readings(
    model: str, rows: str | None, lengths: Sequence[int], counts: Sequence[int], seed: int
) -> list[list[list[int]]]:
    """A batch of so many prompts for each length and each count. Raises as `build_work` does."""
    batches = []
    for length in lengths:
        prompts = build_work(model, rows, length, max(counts), 1, 0, 1, seed).prompts
        batches += [[list(prompt) for prompt in prompts[:count]] for count in counts]
    return batches


def compose_spec(model: str, rows: str | None, prompt_tokens: int, most: int) -> RunConfig:
    """The project's own config, so that prompts are those of a run."""
    overrides = (
        ["model=tiny_gptj"]
        if model == EMBEDDED
        else ["model=hf", f"model.name_or_path={model}", "prompt=tldr"]
    )
    overrides += [
        f"prompt.max_tokens={prompt_tokens + SUMMARY_ROOM}",  # rows are read as for training, summaries too
        "generation.max_new_tokens=1",
        "tracking=none",
        f"data={'files' if rows else 'sample'}",
        f"data.rows.validation={8 * most + 16}",  # not all are long enough
    ]
    if rows:
        overrides += [f"data.train={rows}", f"data.validation={rows}"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return check(compose("config", overrides))
