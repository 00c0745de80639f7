"""Small models for scores: encoders of random weights, and the embedded model beside three rows of its sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from summarizer.config.check import check
from summarizer.config.paths import conf_folder
from summarizer.config.schema import RunConfig
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.data.splits import Split, build_split
from summarizer.models.causal_lm import CausalLM
from summarizer.models.load import load_base
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import load_tokenizer

Encoder = type[BertModel] | type[BertForSequenceClassification]


def save_encoder(folder: Path, words: Sequence[str], kind: Encoder = BertModel, **more: Any) -> Path:
    """An encoder of 64 positions with a tokenizer that knows these words, by transformers' own classes."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words) + 4,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        **more,
    )
    kind(config).save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class SmallRun:
    """The embedded model, and three rows of its validation split."""

    spec: RunConfig
    prompt: Prompt
    split: Split
    rows: list[EncodedRow]
    model: CausalLM


def small_run() -> SmallRun:
    small = ["prompt.max_tokens=96", "data.rows.validation=3", "data.processes=1", "trainer.precision=fp32"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        spec = check(compose("config", overrides=small), imported=True)
    prompt = build_prompt(spec.prompt, load_tokenizer(model_folder(spec.model)))
    split = build_split(spec.data, "validation", prompt)
    base = load_base(spec.model, spec.quantization, torch.device("cpu"))
    return SmallRun(spec, prompt, split, split.encoded(range(3)), base.model)
