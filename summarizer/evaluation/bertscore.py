"""BERTScore: how near the words of two texts are in the eyes of an encoder, where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from summarizer.console import progress
from summarizer.errors import ConfigError

KEY = "--bertscore"
MEASURES = ("precision", "recall", "f1")

NO_LENGTH_KNOWN = 1_000_000
"""Tokens. A tokenizer that was saved without its model's length says 1e30."""


def bert_score(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    folder: Path,
    layer: int | None,
    device: torch.device,
    rows_at_once: int = 32,
    show: bool = True,
) -> dict[str, NDArray[np.float64]]:
    """Precision, recall and F1 of each row, in percent, shape (rows,), by each of MEASURES.

    folder: an encoder (BERT, RoBERTa, DeBERTa) in transformers' format, with its tokenizer. Nothing is fetched.
    layer: whose output is compared, 0 being the embedding's: 17 of roberta-large, 9 of bert-base-uncased, as the
        paper's authors tuned them. None is the layer at three quarters of the depth, which is near theirs.
    Without idf weights and without rescaling against a baseline: raw values, which crowd near the top of the
    scale. They compare with others of the same encoder and layer only. Longer texts are cut to the encoder's
    length. A text without a word scores 0.
    The package bert-score does the same, but fails on empty texts under transformers 5.
    Raises ConfigError where there is no such encoder or layer, ValueError if the two differ in length.
    Source: Zhang et al. 2020 (BERTScore, arXiv:1904.09675), greedy matching.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    encoder, tokenizer, layer = _load(folder, layer)
    encoder.to(device)
    scores = np.zeros((len(MEASURES), len(predictions)))
    # Rows of like length together: less padding.
    order = sorted(range(len(predictions)), key=lambda i: -len(references[i]) - len(predictions[i]))
    with progress.bar("BERTScore", len(predictions), show=show) as bar, torch.no_grad():
        for start in range(0, len(order), rows_at_once):
            rows = order[start : start + rows_at_once]
            said = _embed([predictions[i] for i in rows], encoder, tokenizer, layer, device)
            wanted = _embed([references[i] for i in rows], encoder, tokenizer, layer, device)
            scores[:, rows] = 100 * _greedy(*said, *wanted).cpu().numpy()
            bar.advance(len(rows))
    return dict(zip(MEASURES, scores, strict=True))


@dataclass(frozen=True)
class LoadedBertScore:
    """`bert_score` by an encoder that was loaded once to see that it can be."""

    folder: Path
    layer: int
    device: torch.device

    def __call__(
        self, predictions: Sequence[str], references: Sequence[str]
    ) -> dict[str, NDArray[np.float64]]:
        return bert_score(predictions, references, folder=self.folder, layer=self.layer, device=self.device)


def loaded_bert_score(folder: Path, layer: int | None, *, device: str, key: str = KEY) -> LoadedBertScore:
    """device: auto, cpu or cuda.  key: what a message names the folder by.

    Raises ConfigError where there is no such encoder or layer.
    """
    _, _, layer = _load(folder, layer, key)
    return LoadedBertScore(folder, layer, chosen_device(device))


def chosen_device(device: str) -> torch.device:
    """device: auto, cpu or cuda."""
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def longest_input(tokenizer: Any, encoder: Any) -> int:
    """How many tokens an encoder reads."""
    longest = int(tokenizer.model_max_length)
    if longest > NO_LENGTH_KNOWN:
        # RoBERTa counts its positions from 2, so that two of them are never used.
        longest = int(encoder.config.max_position_embeddings) - 2
    return longest


def _load(folder: Path, layer: int | None, key: str = KEY) -> tuple[Any, Any, int]:
    """The encoder in a folder, its tokenizer and the layer. Raises ConfigError where it has none of that number."""
    if not (folder / "config.json").is_file():
        raise ConfigError.single(
            key,
            f"no encoder in {folder}: a folder with config.json, weights and tokenizer is needed, such as a "
            "download of FacebookAI/roberta-large",
        )
    from transformers import AutoModel, AutoTokenizer

    try:
        encoder = AutoModel.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError.single(key, f"{folder} is no encoder that loads: {error}") from error
    layers = int(encoder.config.num_hidden_layers)
    if layer is None:
        layer = -(-3 * layers // 4)
    if not 0 <= layer <= layers:
        raise ConfigError.single(key, f"layer {layer} of {folder}: 0 to {layers}")
    if tokenizer.pad_token_id is None or tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        raise ConfigError.single(key, f"{folder} is no encoder: its tokenizer marks no start and end")
    return encoder.eval().float(), tokenizer, layer


def _embed(
    texts: Sequence[str], encoder: Any, tokenizer: Any, layer: int, device: torch.device
) -> tuple[Float[Tensor, "n t d"], Bool[Tensor, "n t"], Bool[Tensor, "n t"]]:
    """Unit vectors of the tokens; which are no padding; which of these are words and not start or end."""
    batch = tokenizer(
        [text.strip() for text in texts],
        padding=True,
        truncation=True,
        max_length=longest_input(tokenizer, encoder),
        return_tensors="pt",
    ).to(device)
    output = encoder(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True
    )
    vectors = torch.nn.functional.normalize(output.hidden_states[layer], dim=-1)
    present = batch.attention_mask.bool()
    marks = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id], device=device)
    return vectors, present, present & ~torch.isin(batch.input_ids, marks)


def _greedy(
    said: Float[Tensor, "n s d"],
    said_present: Bool[Tensor, "n s"],
    said_words: Bool[Tensor, "n s"],
    wanted: Float[Tensor, "n w d"],
    wanted_present: Bool[Tensor, "n w"],
    wanted_words: Bool[Tensor, "n w"],
) -> Float[Tensor, "3 n"]:
    """Precision, recall, F1: each word's likeness to the likest token of the other text, on average.

    As in the authors' package, a word may be likest to the other's start or end token, which have no weight of
    their own.
    """
    alike = said @ wanted.transpose(1, 2)
    both = said_present[:, :, None] & wanted_present[:, None, :]
    alike = alike.masked_fill(~both, 0)
    precision = (alike.amax(2) * said_words).sum(1) / said_words.sum(1)
    recall = (alike.amax(1) * wanted_words).sum(1) / wanted_words.sum(1)
    f1 = 2 * precision * recall / (precision + recall)
    scores = torch.stack([precision, recall, f1]).double()
    wordless = ~said_words.any(1) | ~wanted_words.any(1)
    return scores.masked_fill(wordless, 0)
