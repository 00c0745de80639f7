"""Packed attention gives each example what transformers gives it alone, in every family that takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from model_folders import load, logits, tiny_model, token_ids
from transformers import AutoModelForCausalLM

from summarizer import compat
from summarizer.models.attention import packs_examples
from summarizer.ops import attention

pytestmark = pytest.mark.versions

PACKED = ("gptj", "llama_tied", "llama_untied", "gpt2", "neox", "qwen2", "qwen3", "gemma3", "opt", "phi")


@pytest.mark.parametrize("kind", PACKED)
def test_packed_examples_give_what_each_gives_alone(kind: str, tmp_path: Path) -> None:
    tiny_model(kind).save_pretrained(tmp_path)
    model = load(tmp_path).model
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert packs_examples(model, 32)
    parts = [token_ids(1, length, seed=seed) for seed, length in ((0, 9), (1, 3), (2, 6))]
    lengths = [part.shape[1] for part in parts]
    borders = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    with torch.no_grad():
        packed = model(
            input_ids=torch.cat(parts, dim=1),
            position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
            attention_mask=borders.reshape(1, 1, 1, -1),
            use_cache=False,
        ).logits
    for part, own in zip(parts, packed.split(lengths, dim=1), strict=True):
        torch.testing.assert_close(own, logits(theirs, part), rtol=1e-4, atol=1e-5)


def test_where_nothing_says_how_a_model_attends_it_is_padded_and_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model("llama_untied").save_pretrained(tmp_path)
    packing = load(tmp_path).model
    monkeypatch.setattr(compat, "attends_through_interface", lambda model: False)
    padding = load(tmp_path).model
    assert (packs_examples(packing, 32), packs_examples(padding, 32)) == (True, False)
    torch.testing.assert_close(
        logits(padding, token_ids(2)), logits(packing, token_ids(2)), rtol=1e-4, atol=1e-5
    )


def test_no_mask_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What attention is handed is the borders: causal attention needs nothing as large as t x t."""
    tiny_model("llama_untied").save_pretrained(tmp_path)
    model = load(tmp_path).model
    seen = []

    def watched(*args: torch.Tensor, **more: object) -> torch.Tensor:
        seen.append((more.get("attn_mask"), more.get("is_causal")))
        return plain(*args, **more)

    plain = F.scaled_dot_product_attention
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", watched)
    borders = torch.tensor([0, 4, 9], dtype=torch.int32).reshape(1, 1, 1, -1)
    model(input_ids=token_ids(1), position_ids=torch.arange(9)[None], attention_mask=borders)
    assert len(seen) == 2 * model.config.num_hidden_layers
    assert set(seen) == {(None, True)}


def test_a_window_shorter_than_the_examples_is_not_packed(tmp_path: Path) -> None:
    tiny_model("llama_untied").save_pretrained(tmp_path)
    model = load(tmp_path).model
    model.config.sliding_window = 16
    assert packs_examples(model, 16)
    assert not packs_examples(model, 17)
