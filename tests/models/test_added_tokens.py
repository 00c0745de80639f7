"""Tokens that were added to a tokenizer and not to its model: padding is never looked up, words are refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from model_folders import tiny_config
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from summarizer.config.schema import PromptConfig
from summarizer.data.prompt import build_prompt
from summarizer.errors import ConfigError
from summarizer.models.load import load_config
from summarizer.models.tokenizer import check_tokens, load_tokenizer

TLDR = PromptConfig(template="{article}\n\nTL;DR:", completion_token=None, end_token=None, max_tokens=64)


def folder_of(tmp_path: Path, *, rows: int = 96) -> tuple[Path, PreTrainedTokenizerFast]:
    """A model of so many rows, and a tokenizer of 96 tokens."""
    config = tiny_config("llama_untied")
    config.vocab_size = rows
    config.save_pretrained(tmp_path)
    letters = {chr(code): code - 31 for code in range(32, 126)}
    inner = Tokenizer(models.BPE({"<s>": 0, **letters, "</s>": 95}, merges=[]))
    return tmp_path, PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


def test_a_padding_token_beyond_the_embedding_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, tokenizer = folder_of(tmp_path)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 96
    tokenizer.save_pretrained(folder)
    with caplog.at_level(logging.WARNING):
        prompt = build_prompt(TLDR, load_tokenizer(folder))
    assert prompt.pad_id == prompt.end_id == 95
    assert (
        "the padding token '[PAD]' is not used: it is number 96, and the embedding has 96 rows" in caplog.text
    )


def test_a_padding_token_that_has_a_row_is_used(tmp_path: Path) -> None:
    folder, tokenizer = folder_of(tmp_path, rows=97)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert build_prompt(TLDR, load_tokenizer(folder)).pad_id == 96


def test_words_without_a_row_are_refused(tmp_path: Path) -> None:
    folder, tokenizer = folder_of(tmp_path)
    tokenizer.add_tokens(["homework"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        ConfigError, match=r"1 words were added to its tokenizer, such as 'homework'.*\(96 rows\)"
    ):
        load_tokenizer(folder)


def test_an_end_token_without_a_row_is_refused(tmp_path: Path) -> None:
    folder, tokenizer = folder_of(tmp_path)
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    tokenizer.save_pretrained(folder)
    prompt = build_prompt(TLDR, load_tokenizer(folder))
    with pytest.raises(ConfigError, match="reach to number 96, and the model's embedding has 96 rows"):
        check_tokens(load_config(folder), prompt)
