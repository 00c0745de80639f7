"""Text as the model is trained on it: documents from a folder, shuffled, tokenized, the last tokens held out."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from recipe import TextPart

from summarizer.console.progress import bar
from summarizer.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

OPENERS = {".txt": open, ".gz": gzip.open, ".xz": lzma.open}
DOCUMENTS_AT_ONCE = 256


@dataclass(frozen=True)
class Tokens:
    training: NDArray[np.uint16]
    held_out: NDArray[np.uint16]


def read_documents(folder: Path, characters: int, seed: int) -> list[str]:
    """Every *.txt, *.txt.gz and *.txt.xz (UTF-8) directly in `folder`, cut into documents and shuffled by `seed`.

    Raises ConfigError where there is none, or one cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError.single("text", f"no folder at {folder}")
    files = sorted(
        path for path in folder.iterdir() if ".txt" in path.suffixes[-2:] and path.suffix in OPENERS
    )
    if not files:
        raise ConfigError.single("text", f"{folder} holds no *.txt, *.txt.gz or *.txt.xz")
    documents: list[str] = []
    for path in files:
        try:
            with OPENERS[path.suffix](path, "rt", encoding="utf-8") as file:
                documents += cut(file.read(), characters)
        except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
            raise ConfigError.single("text", f"{path} cannot be read: {error}") from error
    random.Random(seed).shuffle(documents)
    return documents


def cut(text: str, characters: int) -> Iterator[str]:
    """Parts of at most so many characters, that together are the text.

    A part ends behind the last empty line in its second half, else the last line's end, else the last space.
    """
    start = 0
    while start < len(text):
        end = start + characters
        if end < len(text):
            places = (
                text.rfind(mark, start + characters // 2, end) + len(mark) for mark in ("\n\n", "\n", " ")
            )
            end = next((place for place in places if place > start + characters // 2), end)
        yield text[start:end]
        start = end


def fingerprint(documents: Sequence[str]) -> str:
    """SHA-256 of the documents in their order."""
    digest = hashlib.sha256()
    for document in documents:
        encoded = document.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def tokenize(documents: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> NDArray[np.uint16]:
    """All documents' tokens, the end token behind each."""
    parts: list[NDArray[np.uint16]] = []
    with bar("tokens", len(documents)) as progress:
        for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
            some = list(documents[start : start + DOCUMENTS_AT_ONCE])
            # The raw tokenizer: it splits no text for being longer than the model's positions.
            for encoded in tokenizer.backend_tokenizer.encode_batch(some, add_special_tokens=False):
                parts.append(np.array([*encoded.ids, tokenizer.eos_token_id], dtype=np.uint16))
            progress.advance(len(some))
    return np.concatenate(parts)


def hold_out(tokens: NDArray[np.uint16], part: TextPart, context: int) -> Tokens:
    """The last tokens apart. Raises ConfigError where too few are left to train on."""
    left = len(tokens) - part.held_out_tokens
    if left <= 2 * context or part.held_out_tokens <= context:
        raise ConfigError.single(
            "text",
            f"{len(tokens):,} tokens are too few to hold out {part.held_out_tokens:,} and to train on windows "
            f"of {context:,}",
        )
    return Tokens(tokens[:left], tokens[left:])


def unigram_loss(tokens: Tokens, vocabulary: int) -> float:
    """Nats a held-out token costs by the frequencies of the training tokens alone, each counted once more.

    What a model has to beat to have learnt anything of order. Source: add-one smoothing (Laplace).
    """
    counts = np.bincount(tokens.training, minlength=vocabulary) + 1.0
    return float(-np.log(counts / counts.sum())[tokens.held_out].mean())
