"""The tokenizer: byte-level BPE as GPT-2's, and spare tokens that no text holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recipe import TokenizerPart

from summarizer.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"


def train_tokenizer(documents: Sequence[str], part: TokenizerPart, positions: int) -> PreTrainedTokenizerFast:
    """The same documents in the same order give the same tokenizer.

    Raises ConfigError where the text is too small for so many entries.
    """
    from tokenizers import AddedToken, ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(documents, vocab_size=part.entries, special_tokens=[END], show_progress=False)
    missing = part.entries - bpe.get_vocab_size()
    if missing > 0:
        raise ConfigError.single(
            "tokenizer.entries", f"the text gives only {bpe.get_vocab_size():,} of {part.entries:,}"
        )
    bpe.add_special_tokens(
        [AddedToken(f"<|extratoken_{number}|>", special=True) for number in range(1, part.spare + 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )
