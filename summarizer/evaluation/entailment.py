"""Whether an article entails its summary, sentence by sentence, by any model of natural language inference."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from summarizer.console import progress
from summarizer.errors import ConfigError
from summarizer.evaluation.bertscore import chosen_device, longest_input
from summarizer.evaluation.sentences import split_sentences

KEY = "--nli"
PAIRS_AT_ONCE = 64

Entailment = Callable[[Sequence[str], Sequence[str]], NDArray[np.float64]]
"""Of articles and their summaries, in percent by row; not a number where either has no sentence."""


def loaded_entailment(folder: Path, *, device: str, key: str = KEY) -> Entailment:
    """The score by the model in a folder: of each sentence of the summary how likely the likeliest sentence of the
    article entails it, and the mean over the summary's sentences.

    folder: a sequence classification model in transformers' format, one of whose labels is called entailment, with
        its tokenizer. Nothing is fetched.  device: auto, cpu or cuda.  key: what a message names the folder by.
    Raises ConfigError where there is no such model.
    Source: SummaC-ZS with sentences of both, the maximum over the article and the mean over the summary; Laban et
    al. 2022 (arXiv:2111.09525).
    """
    model, tokenizer, label = _load(folder, key)
    place = chosen_device(device)
    model.to(place)

    def score(articles: Sequence[str], summaries: Sequence[str]) -> NDArray[np.float64]:
        if len(articles) != len(summaries):
            raise ValueError(f"{len(summaries)} summaries for {len(articles)} articles")
        split = [
            (split_sentences(article), split_sentences(summary))
            for article, summary in zip(articles, summaries, strict=True)
        ]
        pairs = list(dict.fromkeys((premise, said) for of, by in split for said in by for premise in of))
        found = dict(zip(pairs, _probabilities(pairs, model, tokenizer, label, place), strict=True))
        return np.array(
            [
                100 * np.mean([max(found[premise, said] for premise in of) for said in by])
                if of and by
                else np.nan
                for of, by in split
            ]
        )

    return score


def _load(folder: Path, key: str) -> tuple[Any, Any, int]:
    """The model, its tokenizer and the number of its label entailment."""
    if not (folder / "config.json").is_file():
        raise ConfigError.single(
            key,
            f"no model in {folder}: a folder with config.json, weights and tokenizer is needed, such as a download "
            "of a model that was trained on MNLI",
        )
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    noisy = logging.getLogger("transformers")
    before, noisy_level = noisy.level, logging.ERROR
    try:
        noisy.setLevel(noisy_level)  # what it says of a missing head is said below, as a mistake
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError.single(key, f"{folder} is no classifier that loads: {error}") from error
    finally:
        noisy.setLevel(before)
    if missing := sorted(info["missing_keys"]):
        raise ConfigError.single(
            key,
            f"{folder} is no classifier: its weights lack {', '.join(missing[:3])}, which would be random",
        )
    named = {int(number): str(name) for number, name in model.config.id2label.items()}
    labels = [number for number, name in named.items() if name.lower().startswith("entail")]
    if len(labels) != 1:
        raise ConfigError.single(
            key,
            f"{folder} does not say which of its labels is entailment: {', '.join(named.values())}; name it in "
            "id2label of its config.json",
        )
    if tokenizer.pad_token_id is None:
        raise ConfigError.single(key, f"{folder} has a tokenizer without a padding token")
    return model.eval().float(), tokenizer, labels[0]


def _probabilities(
    pairs: Sequence[tuple[str, str]], model: Any, tokenizer: Any, label: int, device: torch.device
) -> list[float]:
    """How likely the first text of each pair entails the second."""
    found = np.zeros(len(pairs))
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
    longest = longest_input(tokenizer, model)
    with progress.bar("entailment", len(pairs)) as bar, torch.no_grad():
        for start in range(0, len(order), PAIRS_AT_ONCE):
            places = order[start : start + PAIRS_AT_ONCE]
            batch = tokenizer(
                [pairs[i][0] for i in places],
                [pairs[i][1] for i in places],
                padding=True,
                truncation="longest_first",
                max_length=longest,
                return_tensors="pt",
            ).to(device)
            found[places] = model(**batch).logits.double().softmax(dim=-1)[:, label].cpu().numpy()
            bar.advance(len(places))
    return [float(one) for one in found]
