"""Packed attention gives each example what transformers gives it alone, in every family that takes it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from model_folders import load, logits, tiny_model, token_ids
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from summarizer import compat
from summarizer.models import attention
from summarizer.models.attention import _flash, _masked, packed_attention, packs_examples

pytestmark = pytest.mark.versions

PACKED = ("gptj", "llama_tied", "llama_untied", "gpt2", "neox", "qwen2", "qwen3", "gemma3", "opt", "phi")


def heads(count: int, tokens: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(
        2, count, tokens, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("function", ["by stretch", "masked"])
def test_each_stretch_attends_to_itself_alone(kv_heads: int, scaling: float | None, function: str) -> None:
    q, k, v = heads(4, 9, 8, 0), heads(kv_heads, 9, 8, 1), heads(kv_heads, 9, 8, 2)
    borders = [0, 4, 9, 9 + 1, 9 + 7, 18]
    given = torch.tensor(borders, dtype=torch.int32)
    out = (_masked if function == "masked" else packed_attention)(q, k, v, given, scaling)
    for start, end in pairwise(borders):
        row, own = start // 9, slice(start % 9, (end - 1) % 9 + 1)
        for head in range(4):
            kv = head * kv_heads // 4
            scores = q[row, head, own] @ k[row, kv, own].T * (8**-0.5 if scaling is None else scaling)
            causal = torch.ones_like(scores, dtype=torch.bool).triu(1)
            slow = scores.masked_fill(causal, -torch.inf).softmax(-1) @ v[row, kv, own]
            torch.testing.assert_close(out[row, own, head], slow)


@pytest.mark.parametrize("function", [packed_attention, _masked])
def test_an_overflow_in_one_row_stays_there(function: Callable[..., torch.Tensor]) -> None:
    given = [heads(4, 6, 8, seed).requires_grad_() for seed in range(3)]
    out = function(*given, torch.tensor([0, 2, 6, 9, 12], dtype=torch.int32), None)
    grad = torch.ones_like(out)
    grad[1, 0] = torch.inf
    out.backward(grad)
    assert all(tensor.grad is not None and tensor.grad[0].isfinite().all() for tensor in given)
    assert not all(tensor.grad is not None and tensor.grad[1].isfinite().all() for tensor in given)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_card_s_kernel_is_asked_for_what_it_takes(kv_heads: int) -> None:
    """On fake tensors: torch's own shape functions check the call."""
    with FakeTensorMode():
        q, k, v = (
            torch.empty(12, count, 64, dtype=torch.bfloat16, device="cuda")
            for count in (4, kv_heads, kv_heads)
        )
        borders = torch.empty(3, dtype=torch.int32, device="cuda")
        for scaling in (None, 0.5):
            assert _flash(q, k, v, borders, scaling).shape == (12, 4, 64)


@pytest.mark.parametrize(
    ("width", "way"), [(64, "_flash"), (256, "_flash"), (20, "_masked"), (264, "_masked")]
)
def test_heads_that_the_card_s_kernel_refuses_are_masked(
    width: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=9, minor=0))
    taken: list[str] = []
    monkeypatch.setattr(attention, "_flash", lambda q, *given: (taken.append("_flash"), q)[1])
    monkeypatch.setattr(
        attention, "_masked", lambda q, *given: (taken.append("_masked"), q.transpose(1, 2))[1]
    )
    with FakeTensorMode():
        q, k, v = (torch.empty(1, 4, 12, width, dtype=torch.bfloat16, device="cuda:0") for _ in "qkv")
        borders = torch.empty(3, dtype=torch.int32, device="cuda:0")
        assert packed_attention(q, k, v, borders).shape == (1, 12, 4, width)
    assert taken == [way]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("d", [64, 256])
def test_the_card_attends_as_the_cpu_does(kv_heads: int, d: int) -> None:
    on_cpu = [
        torch.randn(2, count, 40, d, generator=torch.Generator().manual_seed(seed))
        .bfloat16()
        .requires_grad_()
        for seed, count in enumerate((4, kv_heads, kv_heads))
    ]
    on_card = [tensor.detach().cuda().requires_grad_() for tensor in on_cpu]
    borders = torch.tensor([0, 7, 40, 51, 80], dtype=torch.int32)
    expected, got = packed_attention(*on_cpu, borders), packed_attention(*on_card, borders.cuda())
    torch.testing.assert_close(got.cpu(), expected, rtol=2e-2, atol=2e-2)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    got.backward(grad.cuda())
    for theirs, ours in zip(on_cpu, on_card, strict=True):
        assert theirs.grad is not None
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad, rtol=5e-2, atol=5e-2)


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
