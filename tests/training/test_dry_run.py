"""A training step without weights against the same step of a loaded model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kinds_of_adapters import KINDS as ADAPTERS
from kinds_of_adapters import small
from model_folders import CONFIGS, load, tiny_config
from tiny_bases import lora, saved
from torch import Tensor, nn
from transformers import GPTJConfig

from summarizer.adapters.attach import attach
from summarizer.adapters.protocol import Adapter
from summarizer.models.blocks import recompute_blocks
from summarizer.models.causal_lm import CausalLM
from summarizer.ops.attention import BLOCK
from summarizer.quantization import NAMES, weight_format
from summarizer.training.dry_run import Microbatch, dry_run, resident, training_loss, worst_batch
from summarizer.training.simulate import StepCost, step_cost

MICROBATCH = Microbatch(rows=2, tokens=24, summary_tokens=6)
CPU = torch.device("cpu")


def recompute(model: CausalLM) -> None:
    recompute_blocks(model)


def real_cost(
    kind: str, folder: Path, format_name: str, dtype: torch.dtype, prepare: Any, adapters: Sequence[Adapter]
) -> StepCost:
    n = len(adapters)
    model = load(saved(kind, folder), format_name).model
    if prepare is not None:
        prepare(model)
    adapted = attach(model, adapters, list(range(n)))
    batch = worst_batch(adapted, MICROBATCH)
    if batch.position_ids is not None:
        rows = n * MICROBATCH.rows + 1
        batch = replace(batch, cu_seqlens=torch.arange(rows, dtype=torch.int32) * MICROBATCH.tokens)
    with adapted.training():
        return step_cost(lambda: training_loss(adapted, batch, dtype), resident(adapted), model.head)


def fake_cost(kind: str, format_name: str, dtype: torch.dtype, prepare: Any, n: int) -> StepCost:
    run = dry_run(tiny_config(kind), format_name, [lora()] * n, dtype, prepare=prepare)
    return run.cost(MICROBATCH)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "format_name", "dtype", "prepare", "n"),
    [
        *(("gptj", name, torch.bfloat16, None, 1) for name in NAMES),
        ("gptj", "int8", torch.float32, None, 1),
        ("gptj", "int8", torch.bfloat16, recompute, 1),
        ("gptj", "int8", torch.bfloat16, None, 3),
        ("llama_tied", "int8", torch.bfloat16, None, 1),
        ("llama_untied", "nf4", torch.bfloat16, recompute, 2),
        ("gpt2", "int8", torch.float32, None, 1),
    ],
)
def test_costs_what_the_loaded_model_s_step_costs(
    kind: str, format_name: str, dtype: torch.dtype, prepare: Any, n: int, tmp_path: Path
) -> None:
    real = real_cost(kind, tmp_path, format_name, dtype, prepare, [lora()] * n)
    assert fake_cost(kind, format_name, dtype, prepare, n) == real
    assert all(size > 0 for part, size in real.at_peak.items() if part not in ("temporaries", "logits"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
def test_every_kind_of_model_can_be_planned(kind: str, tmp_path: Path) -> None:
    some = lora(targets=["linear"])  # the embedding or the head of some keeps its own code
    cost = dry_run(tiny_config(kind), "int8", [some], torch.bfloat16).cost(MICROBATCH)
    model = load(saved(kind, tmp_path), "int8").model
    storages = [tensor.untyped_storage() for tensor in (*model.module.parameters(), *model.module.buffers())]
    tensors = {storage.data_ptr(): storage.nbytes() for storage in storages}
    assert cost.at_peak["base"] == sum(tensors.values())
    assert cost.flops > 0


@pytest.mark.parametrize(
    "format_name", ["int8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "nf4+int8"))]
)
@pytest.mark.parametrize(
    "kind",
    [kind if kind in ("dora", "oft") else pytest.param(kind, marks=pytest.mark.slow) for kind in ADAPTERS],
)
def test_every_kind_of_adapter_can_be_planned(kind: str, format_name: str, tmp_path: Path) -> None:
    """To what the loaded model's step takes, but for rows that a kernel multiplies as they are stored."""
    own, dtype = [small(kind), small("lora")], torch.bfloat16
    planned = dry_run(tiny_config("gptj"), format_name, own, dtype).cost(MICROBATCH)
    real = real_cost("gptj", tmp_path, format_name, dtype, None, own)
    assert planned.at_peak["adapters"] == real.at_peak["adapters"]
    assert planned.at_peak["gradients"] == real.at_peak["gradients"]
    assert planned.peak_bytes == pytest.approx(real.peak_bytes, rel=0.02)


def test_a_model_that_does_not_pack_is_planned_with_its_mask() -> None:
    run = dry_run(tiny_config("bloom"), "int8", [lora()], torch.float32)
    assert not run.adapted.model.packs(24)
    assert run.cost(MICROBATCH).peak_bytes > 0


@pytest.mark.slow
def test_recomputing_takes_less_memory_and_more_arithmetic() -> None:
    config = tiny_config("gptj")
    config.n_layer = 8
    kept = dry_run(config, "int8", [lora()], torch.bfloat16).cost(MICROBATCH)
    again = dry_run(config, "int8", [lora()], torch.bfloat16, prepare=recompute).cost(MICROBATCH)
    assert again.at_peak["activations"] < kept.at_peak["activations"] / 2
    assert 1.2 < again.flops / kept.flops < 1.6


def test_a_step_that_reads_numbers_is_refused_rather_than_guessed() -> None:
    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float(x.detach().sum())

    def prepare(model: Any) -> None:
        model.transformer.ln_f = Reads()

    with pytest.raises(Exception, match="_local_scalar_dense"):
        dry_run(tiny_config("gptj"), "int8", [lora()], torch.float32, prepare=prepare).cost(MICROBATCH)


@pytest.mark.slow
def test_gptj_6b_is_planned_without_a_weight() -> None:
    layers, d, v, r, tokens = 28, 4096, 50400, 2, 2048
    config = GPTJConfig(
        n_layer=layers,
        n_embd=d,
        n_head=16,
        rotary_dim=64,
        vocab_size=v,
        n_positions=2048,
        tie_word_embeddings=False,
    )
    run = dry_run(config, "int8", [lora(dim=r)], torch.bfloat16)
    cost = run.cost(Microbatch(rows=2, tokens=1024, summary_tokens=36))
    linear, head = layers * 12 * d * d, v * d
    weights = linear + 2 * head
    rows = layers * 9 * d + 2 * v  # of outputs, each with a scale
    biases_and_norms = layers * (4 * d + d + 2 * d) + v + 2 * d
    frequencies = 64 // 2
    assert cost.at_peak["base"] == weights + 4 * (rows + biases_and_norms + frequencies)
    trainable = sum(parameter.numel() for parameter in run.adapted.parameters_of(0).values())
    assert trainable == 4_346_752
    assert cost.at_peak["adapters"] == 4 * trainable + 4 * len(run.adapted.layers)  # and each one's scale
    pairs = 1024 * (1024 + BLOCK) // 2  # what blocks of queries meet of the square
    attention = 6 * layers * 2 * (2 * pairs * d)
    behind = (
        9 * d * d
    )  # of the last block, behind its attention: at the summaries' positions alone, as the head
    frozen = 4 * ((linear - behind) * tokens + (behind + head) * 72)
    adapters = 6 * (trainable - r * v) * tokens
    assert cost.flops == pytest.approx(frozen + attention + adapters, rel=0.005)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (7, 4097), (65, 129), (16, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stored_parts_are_those_of_a_weight(name: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    parts = weight_format(name).quantize(torch.randn(shape).to(dtype))
    known = {part: (tuple(tensor.shape), tensor.dtype) for part, tensor in parts.items()}
    assert weight_format(name).stored_parts(shape, dtype) == known
