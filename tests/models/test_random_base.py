"""A base of random weights is a base like any other, of the right shapes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPTJConfig, LlamaConfig, PretrainedConfig

from summarizer.config.schema import ModelConfig, QuantizationConfig
from summarizer.models.load import load_base
from summarizer.models.meta_model import build_meta_model
from summarizer.models.random_base import random_base, random_tensors

CPU = torch.device("cpu")


def gptj() -> PretrainedConfig:
    return GPTJConfig(vocab_size=96, n_embd=32, n_layer=2, n_head=2, rotary_dim=8, n_positions=64)


def llama() -> PretrainedConfig:
    return LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )


def gpt2() -> PretrainedConfig:
    return GPT2Config(vocab_size=96, n_embd=32, n_layer=1, n_head=2, n_positions=64)


@pytest.mark.parametrize("config", [gptj, llama, gpt2])
@pytest.mark.parametrize("format_name", ["int8", "none"])
def test_it_is_the_base_that_loading_such_a_checkpoint_gives(config, format_name, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Independent of the meta: transformers' own model takes the tensors, and saves what load_base loads."""
    tensors = dict(random_tensors(build_meta_model(config(), "nf4"), CPU, seed=3))
    theirs = AutoModelForCausalLM.from_config(config(), dtype=torch.bfloat16)
    absent = theirs.load_state_dict(tensors, strict=False)
    assert not absent.unexpected_keys
    assert set(absent.missing_keys) <= {"lm_head.weight"}, "only a tied head has no tensor of its own"
    config().save_pretrained(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    spec = ModelConfig(name_or_path=str(tmp_path), revision=None, completion_token=None)
    loaded = load_base(spec, QuantizationConfig(format=format_name, cache=False), CPU)
    drawn = random_base(config(), format_name, CPU, seed=3)
    assert drawn.stored_bytes == loaded.stored_bytes
    ours, expected = drawn.model.module.state_dict(), loaded.model.module.state_dict()
    parts = {
        name: part for name, part in drawn.model.module.named_buffers() if name.endswith((".q", ".scale"))
    }
    assert bool(parts) == (format_name == "int8")
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0)
    ids = torch.arange(24)[None]
    with torch.no_grad():
        torch.testing.assert_close(drawn.model.logits(ids), loaded.model.logits(ids), rtol=0, atol=0)


def test_the_seed_decides() -> None:
    first, same, other = (random_base(gptj(), "int8", CPU, seed).model.lm_head.weight.q for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.dtype == torch.int8
    assert first.shape == (96, 32)


def test_what_is_drawn() -> None:
    tensors = dict(random_tensors(build_meta_model(gptj(), "none"), CPU, seed=0))
    assert len(tensors) == 3 + 2 * 10 + 2  # head with bias, embedding; blocks; the last norm
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    head = tensors["lm_head.weight"].float()
    assert float(head.std()) == pytest.approx(0.02, rel=0.1)
    assert abs(float(head.mean())) < 0.002
    assert torch.equal(tensors["transformer.ln_f.weight"], torch.ones(32, dtype=torch.bfloat16))
    assert not tensors["transformer.ln_f.bias"].any()
    assert not tensors["transformer.h.0.mlp.fc_in.bias"].any()


def test_tensors_leave_one_at_a_time() -> None:
    """Nothing of the model's size is made before the first tensor is asked for, and none is kept after it left."""
    import weakref

    left: list[weakref.ref[torch.Tensor]] = []
    for _, tensor in random_tensors(build_meta_model(llama(), "none"), CPU, seed=0):
        assert not any(ref() is not None for ref in left[:-1])
        left.append(weakref.ref(tensor))
    assert len(left) > 15
