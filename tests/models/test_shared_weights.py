"""What a config ties and a checkpoint does not, and a second file that could be meant: transformers' choice."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from model_folders import load, logits, save_bin, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

pytestmark = pytest.mark.versions

TIED = ["llama_tied", "gpt2", "gemma3"]


def reference(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def with_a_head_of_its_own(kind: str, folder: Path) -> Path:
    """As merging an adapter leaves it: the config still says tied."""
    model = tiny_model(kind)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    embedding = next(name for name in tensors if name.endswith(("embed_tokens.weight", "wte.weight")))
    head = torch.randn(tensors[embedding].shape, generator=torch.Generator().manual_seed(1)) * 0.2
    save_file({**tensors, "lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    assert json.loads((folder / "config.json").read_text()).get("tie_word_embeddings", True)
    return folder


@pytest.mark.parametrize("kind", TIED)
def test_a_head_that_differs_from_the_embedding_is_used(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = with_a_head_of_its_own(kind, tmp_path)
    right = logits(reference(folder))
    with caplog.at_level(logging.WARNING):
        got = logits(load(folder).model)
    torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-4)
    assert torch.dist(right, logits(tiny_model(kind))) > 0.1
    assert "its tensors differ: each is used, as by transformers" in caplog.text


@pytest.mark.parametrize("kind", TIED)
def test_it_is_kept_by_the_cache(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMMARIZER_CACHE", str(tmp_path / "cache"))
    folder = with_a_head_of_its_own(kind, tmp_path / "model")
    right = logits(load(folder, "int8").model)
    for _ in range(2):
        assert torch.equal(logits(load(folder, "int8", cache=True).model), right)


@pytest.mark.parametrize("kind", TIED)
def test_a_tied_checkpoint_that_holds_only_the_head(kind: str, tmp_path: Path) -> None:
    model = tiny_model(kind)
    tensors = dict(model.state_dict())
    embedding = next(name for name in tensors if name.endswith(("embed_tokens.weight", "wte.weight")))
    tensors.setdefault("lm_head.weight", tensors[embedding])
    del tensors[embedding]
    save_bin(model, tmp_path, tensors)
    torch.testing.assert_close(
        logits(load(tmp_path).model), logits(reference(tmp_path)), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(logits(load(tmp_path).model), logits(model), rtol=1e-4, atol=1e-4)


def test_a_single_file_comes_before_an_index_that_was_left_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_model("llama_untied", seed=9).save_pretrained(tmp_path, max_shard_size="20KB")
    tiny_model("llama_untied").save_pretrained(tmp_path / "new")
    (tmp_path / "new" / "model.safetensors").rename(tmp_path / "model.safetensors")
    right = logits(reference(tmp_path))
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(logits(load(tmp_path).model), right, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(right, logits(tiny_model("llama_untied")), rtol=1e-4, atol=1e-4)
    assert "model.safetensors is read, as transformers reads it" in caplog.text
    assert "model.safetensors.index.json" in caplog.text


def test_a_config_may_name_the_file(tmp_path: Path) -> None:
    tiny_model("llama_untied").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "mine.safetensors")
    tiny_model("llama_untied", seed=4).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_weights": "mine.safetensors"}))
    torch.testing.assert_close(
        logits(load(tmp_path).model), logits(tiny_model("llama_untied")), rtol=1e-4, atol=1e-4
    )


def test_a_bias_that_a_model_has_not_is_no_mask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Old checkpoints' causal masks are called as a layer's bias would be."""
    tiny_model("gptj").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["transformer.h.0.attn.bias"] = torch.ones(96)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING):
        load(tmp_path)
    assert (
        "1 tensors of the checkpoint have no place in the model, such as transformer.h.0.attn.bias"
        in caplog.text
    )
