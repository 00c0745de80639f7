"""A token from a kernel graph against transformers' own model, whose weights are what int8 stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from test_decoder import NEW, PROMPTS, SEARCHES, answers, expected
from tiny_bases import fill_randomly, load, lora, plain, saved
from transformers import AutoModelForCausalLM, PreTrainedModel

from summarizer import compat
from summarizer.adapters.attach import AdaptedModel, attach
from summarizer.generation import decode_graphs, decoder
from summarizer.generation.decode_graphs import KernelGraphStep
from summarizer.models.causal_lm import CausalLM
from summarizer.ops import decode_gemm, kernel_graph, native
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear
from summarizer.quantization.protocol import WeightFormat

pytestmark = pytest.mark.versions

needs_kernels = pytest.mark.skipif(
    not native.available(kernel_graph.SOURCE),
    reason="the kernels want Linux, AVX-512 and a C compiler; the model goes its own way",
)
LLAMA: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GPTJ: dict[str, Any] = {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 64}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gptj": ("GPTJConfig", GPTJ | {"rotary_dim": 8}),
    "llama": ("LlamaConfig", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "llama_tied": ("LlamaConfig", LLAMA | {"tie_word_embeddings": True}),
    "mistral": ("MistralConfig", LLAMA | {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("Qwen2Config", LLAMA),
    "qwen3": ("Qwen3Config", LLAMA | {"head_dim": 16}),
    "phi": ("PhiConfig", LLAMA | {"num_key_value_heads": 4}),
    "smollm3": ("SmolLM3Config", LLAMA | {"num_hidden_layers": 4}),
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "heads of half a register": ("GPTJConfig", GPTJ | {"n_head": 8, "rotary_dim": 4}),
    "a window that ends within the text": ("MistralConfig", LLAMA | {"sliding_window": 8, "head_dim": 32}),
}


def made(config: tuple[str, dict[str, Any]], folder: Path) -> Path:
    """Every norm and bias drawn too, so that each one matters."""
    name, options = config
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, name)(**options), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each step that was asked for was recorded."""
    passes: list[bool] = []

    def told(*given: Any) -> Any:
        found = decode_graphs.decode_step(*given)
        passes.append(isinstance(found, KernelGraphStep))
        return found

    monkeypatch.setattr(decoder, "decode_step", told)
    return passes


def as_stored(folder: Path, base: CausalLM) -> PreTrainedModel:
    """transformers' model with the weights that the quantized base stands for."""
    reference = plain(folder)
    count = 0
    for name, module in base.module.named_modules():
        if isinstance(module, FrozenLinear | FrozenEmbedding):
            reference.get_submodule(name).weight.data = module.weight.dense(torch.float32)
            count += 1
    assert count > 10
    return reference


@needs_kernels
@pytest.mark.parametrize("options", [SEARCHES[0], SEARCHES[1], SEARCHES[5], SEARCHES[7]], ids=str)
@pytest.mark.parametrize(
    ("kind", "format_name"),
    [*((kind, "int8") for kind in KINDS), *(("gptj", name) for name in ("none", "blockwise8", "fp8"))],
)
def test_tokens_are_transformers_own(
    kind: str, format_name: str, options: dict[str, Any], tmp_path: Path, taken: list[bool]
) -> None:
    folder = made(KINDS[kind], tmp_path)
    base = load(folder, format_name).model
    reference = as_stored(folder, base)
    got = answers(attach(base, [lora(1)], [0]), **options)
    assert taken
    assert all(taken)
    assert [answer for (answer,) in got] == [expected(reference, prompt, **options) for prompt in PROMPTS]


@needs_kernels
def test_without_a_count_of_writes_the_modules_write_the_same(
    tmp_path: Path, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attach(load(made(KINDS["llama"], tmp_path), "int8").model, [lora(1)], [0])
    recorded = answers(model)
    assert all(taken)
    taken.clear()
    monkeypatch.setattr(compat, "was_never_written_in_place", lambda tensor: False)
    assert answers(model) == recorded
    assert taken
    assert not any(taken)


def logits_of(model: AdaptedModel, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    advance = decoder.OneByOne.advance
    with monkeypatch.context() as patched:
        patched.setattr(
            decoder.OneByOne,
            "advance",
            lambda own, logits: (seen.append(logits.clone()), advance(own, logits))[1],
        )
        answers(model, min_new_tokens=NEW)
    return seen


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("format_name", ["int8", "nf4", "blockwise8", "none"])
@pytest.mark.parametrize("kind", ["gptj", "llama", "llama_tied"])
@pytest.mark.parametrize("bf16", [False, True])
def test_trials_get_the_logits_that_the_modules_give(
    kind: str,
    format_name: str,
    bf16: bool,
    tmp_path: Path,
    taken: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three trials with adapters of unequal dims, in slots that come free at different times."""
    adapters = [lora(2), lora(5), lora(1, targets=["linear"])]
    model = attach(load(made(KINDS[kind], tmp_path), format_name).model, adapters, [0, 1, 2])
    for trial in range(3):
        fill_randomly(model, trial, seed=trial)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        by_graph = logits_of(model, monkeypatch)
        assert taken
        assert all(taken)
        monkeypatch.setattr(KernelGraphStep, "recorded", lambda *given: None)
        by_modules = logits_of(model, monkeypatch)
    assert len(by_graph) == len(by_modules) > NEW
    # int8's kernel rounds x to 16 bits, keys may be kept in bf16: fp32's last bit can decide to which side.
    bound = 1e-2 if bf16 else 1e-4
    for one, other in zip(by_graph, by_modules, strict=True):
        assert (one - other).abs().max() < bound * other.abs().max()


@needs_kernels
def test_adapters_that_change_between_answers_are_seen(tmp_path: Path, taken: list[bool]) -> None:
    model = attach(load(made(KINDS["gptj"], tmp_path), "int8").model, [lora(2), lora(3)], [0, 1])
    before = answers(model)
    fill_randomly(model, 1, seed=4)
    after = answers(model)
    assert [of[0] for of in before] == [of[0] for of in after]
    assert [of[1] for of in before] != [of[1] for of in after]
    with model.only([1]):
        assert answers(model) == [[of[1]] for of in after]
    with model.base_alone():
        assert answers(model) == [[of[0]] for of in before]
    assert all(taken)


@pytest.mark.parametrize("kind", OTHERS)
def test_another_model_goes_its_own_way(kind: str, tmp_path: Path, taken: list[bool]) -> None:
    model = load(made(OTHERS[kind], tmp_path), "int8").model
    answers(attach(model, [lora(1)], [0]), PROMPTS[:2])
    assert taken
    assert not any(taken)


def test_a_format_without_a_kernel_and_many_rows_go_their_own_way(
    tmp_path: Path, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(KINDS["gptj"], tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(decode_gemm, "supports", lambda *given: False)
        answers(attach(load(folder, "none").model, [lora(1)], [0]), PROMPTS[:2])
    monkeypatch.setattr(WeightFormat, "decode_rows", 2)
    answers(attach(load(folder, "int8").model, [lora(1)], [0]), PROMPTS[:3], batch_size=3, min_new_tokens=NEW)
    assert taken
    assert not any(taken)


@needs_kernels
def test_a_layer_that_copies_its_input_is_not_recorded(tmp_path: Path, taken: list[bool]) -> None:
    """What lies in a copy when the graph is recorded would be multiplied again and again."""
    model = attach(load(made(KINDS["gptj"], tmp_path), "int8").model, [lora(1)], [0])
    layer = model.layers["transformer.h.1.mlp.fc_in"]
    layer.register_forward_pre_hook(lambda _, given: (given[0].clone(),))
    answers(model, PROMPTS[:1])
    assert taken == [False]


def test_small_models_of_other_tests_have_no_wide_heads(tmp_path: Path, taken: list[bool]) -> None:
    answers(attach(load(saved("gptj", tmp_path), "int8").model, [lora(1)], [0]), PROMPTS[:1])
    assert taken == [False]
