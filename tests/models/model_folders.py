"""Tiny model folders with random weights, as transformers itself writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from summarizer.config.schema import ModelConfig, QuantizationConfig
from summarizer.models.causal_lm import CausalLM
from summarizer.models.load import Base, load_base
from summarizer.quantization import formats_of

COMMON = {"vocab_size": 96, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LLAMA_LIKE = {
    **COMMON,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2_LIKE = {**COMMON, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gptj": ("GPTJConfig", {**GPT2_LIKE, "rotary_dim": 4, "tie_word_embeddings": False}),
    "llama_tied": ("LlamaConfig", {**LLAMA_LIKE, "tie_word_embeddings": True}),
    "llama_untied": ("LlamaConfig", {**LLAMA_LIKE, "tie_word_embeddings": False, "attention_bias": True}),
    "gpt2": ("GPT2Config", GPT2_LIKE),
    "neox": ("GPTNeoXConfig", {**LLAMA_LIKE, "use_parallel_residual": True}),
    "qwen2": ("Qwen2Config", LLAMA_LIKE),
    "qwen3": ("Qwen3Config", {**LLAMA_LIKE, "head_dim": 8}),
    "gemma3": ("Gemma3TextConfig", {**LLAMA_LIKE, "head_dim": 8, "tie_word_embeddings": True}),
    "opt": (
        "OPTConfig",
        {**COMMON, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 64, "word_embed_proj_dim": 16},
    ),
    "phi": ("PhiConfig", {**LLAMA_LIKE, "num_key_value_heads": 4}),
    "bloom": ("BloomConfig", {**COMMON, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
}  # fmt: skip


def tiny_config(kind: str) -> PretrainedConfig:
    name, options = CONFIGS[kind]
    return getattr(transformers, name)(**options)


def tiny_model(kind: str, seed: int = 0) -> PreTrainedModel:
    """Larger weights than a fresh model's, biases and norms drawn too: each one matters in the logits."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(kind), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def save_bin(
    model: PreTrainedModel, folder: Path, tensors: dict[str, torch.Tensor] | None = None, **how: Any
) -> Path:
    """As a checkpoint of before safetensors: config.json and pytorch_model.bin."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    torch.save(
        tensors if tensors is not None else dict(model.state_dict()), folder / "pytorch_model.bin", **how
    )
    return folder


def load(folder: Path | str, base_format: str = "none", *, cache: bool = False, device: str = "cpu") -> Base:
    spec = ModelConfig(name_or_path=str(folder), revision=None, completion_token=None)
    layers, embedding = formats_of(base_format)
    quantization = QuantizationConfig.model_validate(
        {"format": layers, "embedding_format": embedding, "cache": cache}
    )
    return load_base(spec, quantization, torch.device(device))


def token_ids(rows: int = 2, length: int = 9, vocabulary: int = 96, seed: int = 3) -> torch.Tensor:
    return torch.randint(1, vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model: PreTrainedModel | CausalLM, ids: torch.Tensor | None = None) -> torch.Tensor:
    ids = token_ids() if ids is None else ids
    with torch.no_grad():
        return model.logits(ids) if isinstance(model, CausalLM) else model(input_ids=ids).logits
