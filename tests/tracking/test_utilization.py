"""FLOPs of a training step against those that torch counts in plain transformers + peft."""

from __future__ import annotations

import time
from pathlib import Path

import peft
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPTJConfig, GPTJForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from summarizer.adapters.attach import attach
from summarizer.adapters.lora import LoRA
from summarizer.config.schema import ModelConfig, QuantizationConfig
from summarizer.models.load import load_base
from summarizer.tracking import utilization as tracking_utilization
from summarizer.tracking.utilization import (
    ModelShape,
    TrainingFlops,
    matrix_rate,
    shape_of,
    training_flops,
    utilization,
)

CPU = torch.device("cpu")
LAYERS, WIDTH, HIDDEN, VOCABULARY, DIM = 2, 64, 256, 500, 3
LENGTH, SUMMARY_TOKENS, ROWS = 48, 5, 2


def gptj() -> PreTrainedModel:
    return GPTJForCausalLM(
        GPTJConfig(
            vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=4, rotary_dim=8, n_positions=64,
            tie_word_embeddings=False,
        )
    )  # fmt: skip


def llama() -> PreTrainedModel:
    """Two heads of keys and values for four of queries, and heads wider than WIDTH / 4."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=LAYERS,
            num_attention_heads=4, num_key_value_heads=2, head_dim=24, tie_word_embeddings=True,
        )
    )  # fmt: skip


def lora(dim: int, targets: list[str]) -> LoRA:
    return LoRA(dim=dim, alpha=None, dropout=0.0, targets=targets, exclude=[], start_from=None)


def shape_in(folder: Path, plain: PreTrainedModel, targets: list[str]) -> ModelShape:
    """Of a group whose other trial has more weights, which are none of this one's."""
    plain.save_pretrained(folder)
    model = ModelConfig(name_or_path=str(folder), revision=None, completion_token=None)
    base = load_base(model, QuantizationConfig(format="int8", cache=False), CPU).model
    return shape_of(attach(base, [lora(DIM, targets), lora(9, targets)], [0, 1]), 0)


def counted(plain: PreTrainedModel) -> tuple[int, int]:
    """FLOPs of one step by torch's count: of products of all kinds, and of those in attention."""
    linears = [
        name for name, module in plain.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding)
    ]  # fmt: skip
    config = peft.LoraConfig(r=DIM, lora_alpha=DIM, target_modules=linears, lora_dropout=0.0)
    model = peft.get_peft_model(plain, config)
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH))
    positions = torch.arange(LENGTH - SUMMARY_TOKENS - 1, LENGTH - 1)
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids, logits_to_keep=positions).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, positions + 1].flatten()).backward()
    operators = counter.get_flop_counts()["Global"]
    return sum(operators.values()), sum(n for name, n in operators.items() if "bmm" in str(name))


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings")
@pytest.mark.parametrize("kind", [gptj, llama], ids=["gptj", "llama, head tied"])
def test_flops_are_those_that_torch_counts(kind: type, tmp_path: Path) -> None:
    plain: PreTrainedModel = kind()
    plain.set_attn_implementation("eager")
    shape = shape_in(tmp_path, plain, ["linear", "head", "embedding"])
    total, attention = counted(plain)
    flops = training_flops(shape, [LENGTH] * ROWS, ROWS * SUMMARY_TOKENS)
    # transformers multiplies the keys behind the mask too: t of them for each token instead of (t + 1) / 2.
    assert flops.attention * 2 * LENGTH / (LENGTH + 1) == attention
    # And what lies behind the last attention it computes for every token, where ours does for the summaries' alone.
    frozen, adapters = (
        shape.head - VOCABULARY * WIDTH,
        shape.head_adapters - DIM * (VOCABULARY + WIDTH),
    )
    spared = (4 * frozen + 6 * adapters) * ROWS * (LENGTH - SUMMARY_TOKENS)
    products = flops.linear + flops.head + flops.adapters
    assert spared > 0
    assert products + spared == pytest.approx(total - attention, rel=0.005)
    assert flops.total + spared == pytest.approx(total, rel=0.1)


def test_the_closed_form(tmp_path: Path) -> None:
    shape = shape_in(tmp_path, gptj(), ["linear", "head", "embedding"])
    block = 4 * WIDTH * WIDTH + 2 * WIDTH * 4 * WIDTH
    pairs = 4 * 2 * WIDTH + 2 * 5 * WIDTH
    queries_keys_and_values = 3 * WIDTH * WIDTH
    assert shape == ModelShape(
        linear=(LAYERS - 1) * block + queries_keys_and_values,
        head=VOCABULARY * WIDTH + block - queries_keys_and_values,
        linear_adapters=DIM * ((LAYERS - 1) * pairs + 3 * 2 * WIDTH),
        head_adapters=DIM * (VOCABULARY + WIDTH + pairs - 3 * 2 * WIDTH),
        embedding_adapters=DIM * WIDTH,
        attention_width=LAYERS * WIDTH,
    )
    flops = training_flops(shape, [3, 1], 2)
    meetings = (1 + 2 + 3) + 1  # each token meets itself and those before it
    assert flops == TrainingFlops(
        linear=4 * 4 * shape.linear,
        head=2 * 4 * shape.head,
        adapters=6 * (4 * (shape.linear_adapters + shape.embedding_adapters) + 2 * shape.head_adapters),
        attention=3 * meetings * 2 * 2 * LAYERS * WIDTH,
    )
    assert flops.total == flops.linear + flops.head + flops.adapters + flops.attention


def test_what_has_no_adapter_counts_as_frozen(tmp_path: Path) -> None:
    everything = shape_in(tmp_path / "all", gptj(), ["linear", "head", "embedding"])
    linear = shape_in(tmp_path / "linear", gptj(), ["linear"])
    assert (linear.linear, linear.head) == (everything.linear, everything.head)
    assert linear.linear_adapters == everything.linear_adapters
    assert everything.head_adapters - linear.head_adapters == DIM * (VOCABULARY + WIDTH)
    assert linear.embedding_adapters == 0


def test_the_rate_is_one_that_the_device_reaches() -> None:
    matrix_rate.cache_clear()
    started_s = time.perf_counter()
    rate = matrix_rate(CPU, torch.float32)
    assert time.perf_counter() - started_s < 3
    assert matrix_rate(CPU, torch.float32) == rate, "measured once"
    a = torch.rand(512, 512)
    seconds = []
    for _ in range(20):
        begun_s = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - begun_s)
    assert 0.2 < 2 * 512**3 / min(seconds) / rate < 3  # other processes share the cores


def test_the_best_rate_ever_measured_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SUMMARIZER_CACHE", str(tmp_path))
    rates = {"busy": 2e11, "idle": 3e11, "another busy": 1e11}
    for measured, expected in [("busy", 2e11), ("idle", 3e11), ("another busy", 3e11)]:
        monkeypatch.setattr(tracking_utilization, "_measured_rate", lambda *_, rate=rates[measured]: rate)
        matrix_rate.cache_clear()
        assert matrix_rate(CPU, torch.float32) == expected
    kept = tmp_path / "matrix_rates.json"
    for broken in (
        "",
        "[1]",
        '{"flops_per_s": {"x": "fast"}}',
        kept.read_text().replace("300000000000", "3e30"),
    ):
        kept.write_text(broken)
        matrix_rate.cache_clear()
        assert matrix_rate(CPU, torch.float32) == 1e11, broken
    matrix_rate.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_rate_of_a_gpu() -> None:
    gpu = torch.device("cuda", 0)
    half = matrix_rate(gpu, torch.float16)
    assert half > 2 * matrix_rate(gpu, torch.float32) > 2e12
    assert torch.cuda.memory_allocated(gpu) < 2**20, "nothing is kept"


def test_utilization() -> None:
    assert utilization(flops=6 * 10**12, seconds=2.0, flops_per_s=12e12) == 0.25
    assert utilization(flops=6 * 10**12, seconds=0.4, flops_per_s=12e12) is None, "the rate was no rate"
