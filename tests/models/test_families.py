"""Our models against the installed transformers' own, on tiny random configs of every family."""

from __future__ import annotations

import copy
import itertools
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from greedy import greedy
from model_folders import LLAMA_LIKE, load
from tiny_bases import fill_randomly, lora
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel

from summarizer.adapters.attach import AdaptedModel, attach
from summarizer.data.batches import Batch
from summarizer.generation.decoder import Decoder
from summarizer.models import meta_model
from summarizer.models.attention import Sequences
from summarizer.models.causal_lm import PackedModel, summary_nll
from summarizer.models.meta_model import build_meta_model
from summarizer.models.transformers_model import TransformersModel

pytestmark = pytest.mark.versions

GPTJ = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
WINDOW = {"sliding_window": 5}
LAST_WINDOWED = {"layer_types": ["full_attention", "sliding_attention"], "use_sliding_window": True, **WINDOW}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gptj": ("GPTJConfig", GPTJ | {"bos_token_id": 0, "eos_token_id": 0}),
    "gptj, odd": ("GPTJConfig", GPTJ | {"n_inner": 40, "tie_word_embeddings": True, "rotary_dim": 8}),
    "llama": ("LlamaConfig", LLAMA_LIKE),
    "llama, tied": ("LlamaConfig", LLAMA_LIKE | {"tie_word_embeddings": True, "head_dim": 16}),
    "llama, biases": ("LlamaConfig", LLAMA_LIKE | {"attention_bias": True, "mlp_bias": True}),
    "llama, llama3": ("LlamaConfig", LLAMA_LIKE | {"rope_parameters": LLAMA3}),
    "llama, yarn": ("LlamaConfig", LLAMA_LIKE | {"rope_parameters": YARN}),
    "llama, linear": (
        "LlamaConfig",
        LLAMA_LIKE | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    ),
    "mistral": ("MistralConfig", LLAMA_LIKE | {"sliding_window": None}),
    "mistral, windowed": ("MistralConfig", LLAMA_LIKE | WINDOW),
    "qwen2": ("Qwen2Config", LLAMA_LIKE),
    "qwen2, windowed": ("Qwen2Config", LLAMA_LIKE | LAST_WINDOWED),
    "qwen3": ("Qwen3Config", LLAMA_LIKE | {"head_dim": 16}),
    "phi": ("PhiConfig", LLAMA_LIKE),
    "phi, whole heads": ("PhiConfig", LLAMA_LIKE | {"partial_rotary_factor": 1.0}),
    "smollm3": ("SmolLM3Config", LLAMA_LIKE | {"num_hidden_layers": 4, "no_rope_layer_interval": 4}),
}
LEFT: dict[str, tuple[str, dict[str, Any], str]] = {
    "activation": ("LlamaConfig", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    "dynamic": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        "rope_type 'dynamic'",
    ),
    "norms of heads": ("PhiConfig", {"qk_layernorm": True}, "qk_layernorm"),
    "no rotation": ("GPTJConfig", {"rotary_dim": 16}, "rotary_dim 16"),
    "relu": ("GPTJConfig", {"activation_function": "relu"}, "activation_function 'relu'"),
}
families = pytest.mark.parametrize("kind", FAMILIES)
LENGTHS = (9, 3, 6)
PROMPTS = [[5, 9, 3, 77, 23, 8, 11, 40], [4], [61, 30, 2, 90, 17]]
END, NEW = 7, 10


def config_of(kind: str) -> PretrainedConfig:
    name, options = FAMILIES[kind]
    config: PretrainedConfig = getattr(transformers, name)(**options)
    return config


@pytest.fixture
def folder(kind: str, tmp_path: Path) -> Path:
    """Weights larger than a fresh model's, biases and norms drawn too: each one matters."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(kind), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(tmp_path)
    return tmp_path


def theirs(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def ours(folder: Path, format_name: str = "none") -> PackedModel:
    model = load(folder, format_name).model
    assert isinstance(model, PackedModel)
    return model


def ids(count: int, seed: int) -> Tensor:
    return torch.randint(8, 96, (count,), generator=torch.Generator().manual_seed(seed))


@families
def test_logits_are_transformers_own_packed_or_alone(folder: Path) -> None:
    model, reference = ours(folder), theirs(folder)
    parts = [ids(length, seed) for seed, length in enumerate(LENGTHS)]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    ends = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    with torch.no_grad():
        packed = model(torch.cat(parts), Sequences(positions, ends)).split(LENGTHS)
        for part, own in zip(parts, packed, strict=True):
            right = reference(input_ids=part[None]).logits[0]
            assert right.std() > 0.05
            torch.testing.assert_close(own, right, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model.logits(part[None])[0], right, rtol=1e-4, atol=1e-5)


def trained(model: AdaptedModel, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """The losses of two trials, and the gradients of all their adapters."""
    for trial in range(2):
        fill_randomly(model, trial, seed=trial)
    with model.training():
        losses = summary_nll(model.model, batch)
        losses.sum().backward()
    return losses.detach(), [stack.grad for stack in model.stacks() if stack.grad is not None]


def batch_of(packed: bool) -> Batch:
    """Two trials with two examples each, of 12 tokens, whose last 4 are summaries."""
    all_ids = ids(48, 9).reshape(4, 12)
    within = torch.arange(7, 11)
    return Batch(
        input_ids=all_ids.reshape(2, 24) if packed else all_ids,
        position_ids=torch.arange(12).repeat(4).reshape(2, 24) if packed else None,
        attention_mask=None if packed else torch.ones_like(all_ids),
        cu_seqlens=torch.arange(0, 49, 12, dtype=torch.int32) if packed else None,
        positions=torch.cat((within, within + 12)).repeat(2, 1),
        targets=torch.cat([row[8:] for row in all_ids]).reshape(2, 8),
        token_numbers=torch.zeros(2, 24, dtype=torch.long) if packed else torch.zeros_like(all_ids),
    )


@families
def test_losses_and_adapters_gradients_are_those_beside_transformers_layers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = [lora(2), lora(3)]
    got = trained(attach(ours(folder), adapters, [0, 1]), batch_of(packed=True))
    monkeypatch.setattr(meta_model, "families", lambda first: ())
    reference = load(folder).model
    assert isinstance(reference, TransformersModel)
    wanted = trained(attach(reference, adapters, [0, 1]), batch_of(packed=False))
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-4, atol=1e-4)
    assert len(got[1]) == len(wanted[1]) > 20
    for mine, right in zip(got[1], wanted[1], strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-3, atol=1e-4 * max(1.0, float(right.abs().max())))


@families
def test_the_last_block_computes_the_places_that_are_asked_for_as_for_all(folder: Path) -> None:
    """Of two trials, one with fewer of them: filled up with a place that is seen already."""
    model = attach(ours(folder), [lora(2), lora(3)], [0, 1])
    for trial in range(2):
        fill_randomly(model, trial, seed=trial)
    sequences = Sequences(
        torch.cat([torch.arange(length) for length in 2 * LENGTHS]),
        torch.tensor([0, *itertools.accumulate(2 * LENGTHS)], dtype=torch.int32),
        rows=2,
    )
    tokens, at = ids(2 * sum(LENGTHS), seed=3), torch.tensor([[4, 7, 8, 17], [11, 16, 0, 0]])
    rows: list[int] = []
    last = model.model.blocks[-1]
    for name, module in last.named_modules():
        if name.endswith(("mlp", "attn", "self_attn")):
            module.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    found = []
    for places in (at, None):
        logits = model.model.module(tokens, sequences, at=places)
        if places is None:
            logits = torch.stack([own[chosen] for own, chosen in zip(logits.chunk(2), at, strict=True)])
        model.zero_grad()
        weights = torch.linspace(-1, 1, logits.numel()).reshape(logits.shape)
        (logits * weights).sum().backward()
        found.append((logits.detach(), [stack.grad.clone() for stack in model.stacks()]))
    assert rows == [8, 8, 36, 36]
    (alone, own), (of_all, right) = found
    torch.testing.assert_close(alone, of_all, rtol=1e-4, atol=1e-4)
    for gradient, reference in zip(own, right, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-3 * float(reference.abs().max()))


@pytest.mark.slow
@families
@pytest.mark.parametrize("beams", [1, 3])
def test_texts_are_what_transformers_generates(folder: Path, beams: int) -> None:
    reference, model = theirs(folder), attach(ours(folder), [lora(1)], [0])
    decoder = Decoder(model, greedy(NEW, num_beams=beams), end_id=END, pad_id=0, batch_size=2)
    answers = dict(decoder.answers(PROMPTS))
    config = GenerationConfig(
        max_new_tokens=NEW, num_beams=beams, eos_token_id=END, pad_token_id=0, do_sample=False
    )
    for index, prompt in enumerate(PROMPTS):
        given = torch.tensor([prompt])
        new = reference.generate(given, attention_mask=torch.ones_like(given), generation_config=config)
        right: list[int] = new[0, len(prompt) :].tolist()
        assert answers[index] == [right[: right.index(END)] if END in right else right]


@families
def test_the_cache_gives_the_logits_of_the_whole_text(folder: Path) -> None:
    """Greedy text is a weak witness: the logits of each token written are those of a pass over all tokens."""
    model = ours(folder)
    text = ids(14, 3)
    seen: list[Tensor] = []
    decoder = Decoder(attach(model, [lora(1)], [0]), greedy(8), end_id=95, pad_id=0, batch_size=1)
    decoding = decoder.decoding([text[:6].tolist()])
    while decoding.unfinished:
        decoding.step()
        assert decoding.logits is not None
        seen.append(decoding.logits[0, 0].clone())
    written = decoding.search.written[0]
    whole = torch.cat((text[:6], torch.tensor(written[:-1])))
    with torch.no_grad():
        right = model.logits(whole[None])[0, 5:]
    torch.testing.assert_close(torch.stack(seen), right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", LEFT)
def test_what_ours_does_not_compute_is_left_to_transformers_and_said(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, options, reason = LEFT[kind]
    config = getattr(transformers, name)(**(GPTJ if name == "GPTJConfig" else LLAMA_LIKE) | options)
    with caplog.at_level(logging.INFO):
        model = build_meta_model(config, "int8").model
    assert isinstance(model, TransformersModel)
    assert reason in caplog.text


def test_every_setting_that_a_config_declares_is_known() -> None:
    """A release that gives one of our families a new setting has to be looked at before it is computed by ours."""
    known = {
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "tie_word_embeddings", "mlp_bias"),
        *("rope_parameters", "attention_bias", "sliding_window", "use_sliding_window", "max_window_layers"),
        *("layer_types", "no_rope_layers", "no_rope_layer_interval", "max_position_embeddings"),
        *("n_embd", "n_layer", "n_head", "n_inner", "n_positions", "rotary_dim", "activation_function"),
        *("layer_norm_epsilon", "layer_norm_eps", "qk_layernorm"),
        # Not of the forward pass of a model without dropout.
        *("attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "initializer_range", "use_cache"),
        *("pad_token_id", "bos_token_id", "eos_token_id", "pretraining_tp"),
    }
    count = 0
    for kind in FAMILIES:
        config = type(config_of(kind))
        for name in config.__annotations__:
            assert name in known or name.startswith("_") or name in PretrainedConfig.__annotations__, name
            count += 1
    assert count > 100


def test_every_file_of_a_family_is_found_and_tried_here() -> None:
    types = {name for family in meta_model.families() for name in family.MODEL_TYPES}
    assert types == {config_of(kind).model_type for kind in FAMILIES}
    assert len(types) >= 6


@pytest.mark.slow
def test_one_model_imports_the_file_of_its_family_alone() -> None:
    script = (
        "import sys; from summarizer.models.meta_model import families; next(families('phi')); "
        "print(*(name for name in sys.modules if name.startswith('summarizer.models.')))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "summarizer.models.phi" in found.split()
    assert not {"summarizer.models.llama", "summarizer.models.gptj"} & set(found.split())


def test_a_config_that_a_model_was_built_from_gives_the_same_again() -> None:
    config = config_of("llama")
    before = copy.deepcopy(config.to_dict())
    assert [type(build_meta_model(config, "int8").model).__name__ for _ in range(2)] == ["Model"] * 2
    assert config.to_dict() == before
