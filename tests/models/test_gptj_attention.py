"""Our GPT-J attention against the installed transformers', and what happens where the two differ."""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPTJConfig

from summarizer.models import attention, gptj_attention
from summarizer.models.attention import packs_examples
from summarizer.models.gptj_attention import GPTJAttention, RotaryTable, replace_gptj_attention, rotate
from summarizer.models.meta_model import build_skeleton

pytestmark = pytest.mark.versions

CONFIG = GPTJConfig(
    vocab_size=96,
    n_embd=64,
    n_layer=2,
    n_head=4,
    n_positions=64,
    rotary_dim=8,
    bos_token_id=0,
    eos_token_id=0,
)


def built() -> nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(CONFIG), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def padded() -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 96, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :5] = mask[2, :1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_logits_and_gradients_are_transformers_s() -> None:
    theirs = built()
    ours = deepcopy(theirs)
    assert replace_gptj_attention(ours)
    given = padded()
    gradients = []
    for model in (ours, theirs):
        logits = model(**given).logits[given["attention_mask"] > 0]
        logits.square().mean().backward()
        gradients.append((logits.detach(), model.transformer.h[0].attn.q_proj.weight.grad))
    for mine, right in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_generate_writes_the_same_text_through_the_cache(beams: int) -> None:
    """The name by which a layer is given the cache changed in 5.24: one that is not seen writes other text."""
    theirs = built()
    ours = deepcopy(theirs)
    assert replace_gptj_attention(ours)
    more: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "num_beams": beams, "pad_token_id": 0}
    texts = [model.generate(**padded(), **more, eos_token_id=None).tolist() for model in (ours, theirs)]
    assert texts[0] == texts[1]
    without = ours.generate(**padded(), **more, eos_token_id=None, use_cache=False).tolist()
    assert texts[0] == without


def test_a_skeleton_has_it_in_every_layer_and_packs() -> None:
    model = build_skeleton(deepcopy(CONFIG), "int8").model
    assert [type(block.attn) for block in model.transformer.h] == [GPTJAttention] * 2
    assert packs_examples(model, 64)
    assert model.transformer.h[0].attn.rotary_table is model.transformer.h[1].attn.rotary_table
    assert [block.attn.layer_idx for block in model.transformer.h] == [0, 1]


def test_where_transformers_computes_something_else_its_own_is_kept_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kind: Any = type(built().transformer.h[0].attn)
    own = kind.forward

    def forward(self: nn.Module, *inputs: Any, **more: Any) -> Any:
        out, *rest = own(self, *inputs, **more)
        return (1.001 * out, *rest)

    monkeypatch.setattr(kind, "forward", forward)
    with caplog.at_level(logging.WARNING):
        model = build_skeleton(deepcopy(CONFIG), "int8").model
    assert [type(block.attn) for block in model.transformer.h] == [kind] * 2
    assert "computes something else" in caplog.text


def test_the_table_is_the_sines_and_cosines_of_each_position() -> None:
    table = RotaryTable(64, 8).table.double()
    for position in (0, 1, 17, 63):
        for i in range(4):
            angle = torch.tensor(position / 10_000 ** (2 * i / 8), dtype=torch.float64)
            assert table[position, i] == pytest.approx(angle.sin().item(), abs=1e-5)
            assert table[position, 4 + i] == pytest.approx(angle.cos().item(), abs=1e-5)


def test_rotation_turns_neighbors_by_their_angles() -> None:
    x = torch.randn(2, 7, 3, 32, generator=torch.Generator().manual_seed(0))
    angles = torch.randn(2, 7, 1, 8, generator=torch.Generator().manual_seed(1))
    pairs = torch.view_as_complex(x[..., :16].unflatten(-1, (8, 2)).contiguous())
    turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
    right = torch.cat([turned, x[..., 16:]], dim=-1)
    torch.testing.assert_close(rotate(x, angles.sin(), angles.cos(), 16), right, rtol=0, atol=1e-6)


def test_a_cache_is_known_by_its_type_whatever_it_is_called() -> None:
    from transformers import DynamicCache

    cache = DynamicCache()
    for name in ("cache", "layer_past", "past_key_values", "tomorrow"):
        assert attention.cache_among({"use_cache": True, name: cache}) is cache
    assert attention.cache_among({"use_cache": True, "cache": None}) is None
    assert gptj_attention.MODEL_TYPE == "gptj"
