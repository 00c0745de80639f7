"""Models of many makers, loaded here and by transformers, give the same logits."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from model_folders import CONFIGS, LLAMA_LIKE, load, logits, save_bin, tiny_config, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Conv1D, YoutuConfig

from summarizer.adapters.attach import roles
from summarizer.models.load import load_config
from summarizer.models.meta_model import build_meta_model
from summarizer.quantization import NAMES, weight_format
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear

pytestmark = pytest.mark.versions


@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    tiny_model(kind).save_pretrained(tmp_path)
    expected = logits(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval())
    assert expected.std() > 0.05
    torch.testing.assert_close(logits(load(tmp_path).model), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_quantized_logits_are_those_of_the_dequantized_weights(kind: str, name: str, tmp_path: Path) -> None:
    """The reference is transformers' own model, with the dequantized weights put in place by hand."""
    tiny_model(kind).save_pretrained(tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    base = load(tmp_path, name)
    for path, module in base.model.module.named_modules():
        if isinstance(module, FrozenLinear | FrozenEmbedding):
            weight = reference.get_submodule(path).weight
            weight.data.copy_(transposed(module.weight.dense(torch.float32), module))
    torch.testing.assert_close(logits(base.model), logits(reference), rtol=1e-4, atol=1e-4)
    assert torch.dist(logits(base.model), logits(load(tmp_path).model)) > 1e-3


def transposed(weight: torch.Tensor, module: FrozenLinear | FrozenEmbedding) -> torch.Tensor:
    return weight.t() if module.weight.transposed_in_checkpoint else weight


LAYERS = {  # adapted linears (2 layers), head, embedding; and what is left as it is
    "gptj": (2 * 6, 1, 1, 0),
    "llama_tied": (2 * 7, 1, 1, 0),
    "llama_untied": (2 * 7, 1, 1, 0),
    "gpt2": (2 * 4 + 1, 1, 1, 0),  # wpe has a lookup too, and no adapter; see below
    "neox": (2 * 4, 1, 1, 0),
    "qwen2": (2 * 7, 1, 1, 0),
    "qwen3": (2 * 7, 1, 1, 0),
    "gemma3": (2 * 7, 1, 1, 0),
    "opt": (2 * 6 + 2, 1, 1, 1),
    "phi": (2 * 6, 1, 1, 0),
    "bloom": (2 * 4, 1, 1, 0),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_linear_head_and_embedding_can_be_adapted(
    kind: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    meta = build_meta_model(tiny_config(kind), "int8")
    found = list(roles(meta.model).values())
    linears, heads, embeddings, unconverted = LAYERS[kind]
    linears -= kind == "gpt2"
    assert [found.count(role) for role in ("linear", "head", "embedding")] == [linears, heads, embeddings]
    assert len(meta.unconverted) == unconverted
    if unconverted:
        tiny_model(kind).save_pretrained(tmp_path)
        with caplog.at_level(logging.WARNING):
            load(tmp_path)
        assert "stays as it is, neither quantized nor adapted" in caplog.text


@pytest.mark.parametrize("kind", ["gptj", "llama_tied", "gpt2", "bloom"])
def test_embedding_and_head_have_a_format_of_their_own(kind: str, tmp_path: Path) -> None:
    """As if each weight had been quantized for itself, in transformers' own model."""
    model = tiny_model(kind)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path, "nf4+int8")
    modules = dict(loaded.model.module.named_modules())
    seen = []
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Embedding) or module is model.get_output_embeddings():
                name_of, own = "int8", module.weight
            elif isinstance(module, torch.nn.Linear | Conv1D):
                name_of, own = "nf4", module.weight
            else:
                continue
            found = modules[name].weight
            assert found.format.name == name_of
            dense = own.T if isinstance(module, Conv1D) else own
            stored = weight_format(name_of)
            wanted = stored.dequantize(stored.quantize(dense), tuple(dense.shape), torch.float32)
            assert torch.equal(found.dense(torch.float32), wanted)
            seen.append(name)
    assert set(roles(loaded.model)) <= set(seen)


@pytest.mark.parametrize("kind", ["gptj", "llama_tied", "gpt2"])
def test_shards(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    torch.testing.assert_close(logits(load(tmp_path).model), logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("zip_file", [True, False])
def test_old_single_file_with_masks(zip_file: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As EleutherAI/gpt-j-6b has it, causal masks among the weights."""
    model = tiny_model("gptj")
    tensors = dict(model.state_dict())
    for layer in range(2):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e9)
    save_bin(model, tmp_path, tensors, _use_new_zipfile_serialization=zip_file)
    with caplog.at_level(logging.WARNING):
        base = load(tmp_path)
    torch.testing.assert_close(logits(base.model), logits(model))
    assert ("cannot be memory-mapped" in caplog.text) is not zip_file
    assert "no place" not in caplog.text


def test_bin_shards(tmp_path: Path) -> None:
    model = tiny_model("gptj")
    save_bin(model, tmp_path)
    tensors = torch.load(tmp_path / "pytorch_model.bin")
    (tmp_path / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, own in shards.items():
        torch.save({name: tensors[name] for name in own}, tmp_path / file)
    index = {"weight_map": {name: file for file, own in shards.items() for name in own}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    torch.testing.assert_close(logits(load(tmp_path).model), logits(model))


@pytest.mark.parametrize("kind", ["gpt2", "llama_tied"])
def test_a_checkpoint_without_the_body_s_prefix(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    prefix = model.base_model_prefix + "."
    tensors = {
        name.removeprefix(prefix): value
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_bin(model, tmp_path, tensors)
    torch.testing.assert_close(logits(load(tmp_path).model), logits(model))


def test_a_tied_head_is_stored_once_even_if_the_checkpoint_repeats_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model("llama_tied")
    save_bin(model, tmp_path, {name: value.clone() for name, value in model.state_dict().items()})
    with caplog.at_level(logging.WARNING):
        base = load(tmp_path, "int8")
    assert base.model.lm_head.weight is base.model.model.embed_tokens.weight
    assert "no place" not in caplog.text


def test_a_half_precision_checkpoint_is_computed_in_fp32(tmp_path: Path) -> None:
    model = tiny_model("llama_untied").bfloat16()
    model.save_pretrained(tmp_path)
    base = load(tmp_path)
    assert {tensor.dtype for tensor in base.model.module.parameters()} == {torch.float32}
    got = logits(base.model)
    assert got.dtype == torch.float32
    expected = logits(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval())
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_tensors_without_a_place_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_model("gptj").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "score.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        load(tmp_path)
    assert "1 tensors of the checkpoint have no place in the model, such as score.weight" in caplog.text


def test_persistent_buffers_of_a_checkpoint_are_loaded(tmp_path: Path) -> None:
    """Such as DeepSeek's routing bias: a buffer that training moved."""
    tiny_model("gptj").save_pretrained(tmp_path)
    meta = build_meta_model(load_config(tmp_path), "none")
    meta.model.transformer.register_buffer("routing", torch.zeros(3))
    assert list(meta.buffers) == ["transformer.routing"]
    from summarizer.models.streaming import fill, quantized, source_tensors

    for extra, expected in (
        ({"transformer.routing": torch.tensor([1.0, 2.0, 3.0])}, [1, 2, 3]),
        ({}, [0, 0, 0]),
    ):
        meta.model.transformer.routing = torch.zeros(3)
        tensors = [*source_tensors(tmp_path), *extra.items()]
        fill(meta, quantized(meta, tensors, tmp_path, "none", torch.device("cpu")), torch.device("cpu"))
        assert meta.model.transformer.routing.tolist() == expected


def test_dropout_of_the_base_is_off_in_training_too(tmp_path: Path) -> None:
    model = tiny_model("gptj")
    model.config.attn_pdrop = model.config.resid_pdrop = model.config.embd_pdrop = 0.5
    model.save_pretrained(tmp_path)
    base = load(tmp_path)
    base.model.module.train()
    training = logits(base.model)
    base.model.module.eval()
    assert torch.equal(training, logits(base.model))


def test_a_row_that_transformers_sets_to_zero_is_zero_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As Youtu's code does with the padding token's, whatever the checkpoint holds; the head is tied to it."""
    torch.manual_seed(0)
    sizes = {
        "q_lora_rank": 8,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }
    config = YoutuConfig(
        **LLAMA_LIKE | sizes | {"pad_token_id": 3, "num_key_value_heads": 4, "tie_word_embeddings": True}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_()
    model.save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert not theirs.lm_head.weight[3].any()
    for again in range(2):
        caplog.clear()
        ours = load(tmp_path, cache=True).model
        torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-4, atol=1e-5)
        assert ("row 3 of model.embed_tokens.weight" in caplog.text) == (again == 0)
    tiny_model("opt").save_pretrained(tmp_path / "opt")  # has a padding row too, that is used as it is
    caplog.clear()
    load(tmp_path / "opt")
    assert "is set to 0" not in caplog.text
