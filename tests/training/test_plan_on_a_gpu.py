"""The planned peak of a step against the one that a GPU's allocator measures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_bases import lora
from transformers import AutoModelForCausalLM, GPTJConfig, PreTrainedModel

from summarizer.adapters.attach import attach
from summarizer.config.schema import ModelConfig, QuantizationConfig
from summarizer.models.blocks import recompute_blocks
from summarizer.models.load import load_base
from summarizer.training.dry_run import Microbatch, dry_run, training_loss, worst_batch

MICROBATCH = Microbatch(rows=2, tokens=512, summary_tokens=64)


def config() -> GPTJConfig:
    return GPTJConfig(
        n_layer=6,
        n_embd=1024,
        n_head=4,
        rotary_dim=64,
        vocab_size=8192,
        n_positions=512,
        tie_word_embeddings=False,
    )


def recompute(model: PreTrainedModel) -> None:
    recompute_blocks(model)


def test_the_shapes_measured_on_a_gpu_can_be_planned() -> None:
    assert dry_run(config(), "int8", [lora()], torch.bfloat16).cost(MICROBATCH).peak_bytes > 2**28


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_gpu_measures_what_was_planned(checkpointing: bool, tmp_path: Path) -> None:
    prepare = recompute if checkpointing else None
    planned = dry_run(config(), "int8", [lora()], torch.bfloat16, prepare=prepare).cost(MICROBATCH)
    AutoModelForCausalLM.from_config(config(), dtype=torch.bfloat16).save_pretrained(tmp_path)
    device = torch.device("cuda")
    torch.mm(
        torch.ones(64, 64, device=device), torch.ones(64, 64, device=device)
    )  # cuBLAS takes its workspace
    before_bytes = torch.cuda.memory_allocated(device)
    spec = ModelConfig(name_or_path=str(tmp_path), revision=None, completion_token=None)
    model = load_base(spec, QuantizationConfig(format="int8", cache=False), device).model
    if prepare is not None:
        prepare(model)
    adapted = attach(model, [lora()], [0])
    batch = worst_batch(adapted, MICROBATCH)
    ends = torch.arange(MICROBATCH.rows + 1, dtype=torch.int32, device=device) * MICROBATCH.tokens
    batch = replace(batch, cu_seqlens=ends)
    with adapted.training():
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats(device)
            training_loss(adapted, batch, torch.bfloat16).backward()
    measured = torch.cuda.max_memory_allocated(device) - before_bytes
    assert planned.peak_bytes == pytest.approx(measured, rel=0.10)
