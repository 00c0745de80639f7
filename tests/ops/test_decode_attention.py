"""Attention of one token in C, against softmax written out in fp64, one head after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from summarizer.ops.decode_attention import (
    CachedKeyValues,
    attend_cached,
    attend_new_token,
    available,
    supports,
)
from summarizer.ops.rotary import RotaryTable, rotate

pytestmark = pytest.mark.skipif(
    not available(), reason="the kernel wants Linux, AVX-512 and a C compiler; torch's operators serve here"
)


def written_out(
    query: Tensor, prompts: list[Tensor], answers: list[Tensor], lengths: Tensor, written: Tensor
) -> Tensor:
    rows, heads, _, d = query.shape
    slots, kv_heads = prompts[0].shape[:2]
    out = torch.empty(rows, 1, heads, d, dtype=torch.float64)
    for row in range(rows):
        slot = row // (rows // slots)
        for head in range(heads):
            of = head // (heads // kv_heads)
            keys, values = (
                torch.cat((prompt[slot, of, : lengths[slot]], answer[row, of, : written[slot]])).double()
                for prompt, answer in zip(prompts, answers, strict=True)
            )
            out[row, 0, head] = (keys @ query[row, head, 0].double()).softmax(0) @ values
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("slots", "beams", "kv_heads", "shared", "d"),
    [(1, 1, 4, 1, 256), (3, 1, 2, 3, 64), (2, 4, 2, 2, 16), (1, 3, 1, 5, 80), (2, 2, 3, 1, 48)],
)
def test_it_is_softmax_over_prompt_and_answer(
    dtype: torch.dtype, slots: int, beams: int, kv_heads: int, shared: int, d: int
) -> None:
    generator = torch.Generator().manual_seed(d)
    rows = slots * beams

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    query = drawn(rows, kv_heads * shared, 1, d) * d**-0.5
    prompts = [drawn(slots, kv_heads, 37, d).to(dtype) for _ in range(2)]
    answers = [drawn(rows, kv_heads, 9, d).to(dtype) for _ in range(2)]
    lengths, written = torch.tensor([37, 1, 20])[:slots], torch.tensor([1, 9, 4])[:slots]
    right = written_out(query, prompts, answers, lengths, written)
    for kept in (*prompts, *answers):  # what lies behind a slot's lengths is never read
        assert supports(kept)
    for slot in range(slots):
        for kept in prompts:
            kept[slot, :, lengths[slot] :] = torch.nan
        for kept in answers:
            kept[slot * beams : (slot + 1) * beams, :, written[slot] :] = torch.nan
    got = attend_cached(
        query, CachedKeyValues((prompts[0], prompts[1]), (answers[0], answers[1]), lengths, written)
    )
    assert got.shape == right.shape
    assert (got - right).abs().max() < 1e-5


def test_heads_of_a_width_that_is_no_whole_register_are_left_to_torch() -> None:
    assert not supports(torch.zeros(1, 1, 4, 24))
    assert not supports(torch.zeros(1, 1, 4, 32, dtype=torch.float16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("half", [0, 4, 16])
def test_a_new_token_is_turned_kept_and_attended_to(dtype: torch.dtype, interleaved: bool, half: int) -> None:
    """Against the rotations that the models' own code has, kept by torch's rounding."""
    slots, beams, kv_heads, shared, d, written = 2, 3, 2, 2, 32, torch.tensor([1, 5])
    rows, lengths = slots * beams, torch.tensor([4, 11])
    generator = torch.Generator().manual_seed(half)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    query, key, value = (
        drawn(rows, kv_heads * shared * d),
        drawn(rows, kv_heads * d),
        drawn(rows, kv_heads * d),
    )
    angles = drawn(rows, half)
    prompts = (drawn(slots, kv_heads, 11, d).to(dtype), drawn(slots, kv_heads, 11, d).to(dtype))
    answers = (drawn(rows, kv_heads, 7, d).to(dtype), drawn(rows, kv_heads, 7, d).to(dtype))
    by_torch = [kept.clone() for kept in answers]

    def turned(x: Tensor) -> Tensor:
        x = x.view(rows, 1, -1, d)
        if interleaved:
            return rotate(x, angles.cos()[:, None], angles.sin()[:, None], interleaved=True)[:, 0]
        cos, sin = (torch.cat((part, part), -1)[:, None] for part in (angles.cos(), angles.sin()))
        front, rest = x[..., : 2 * half], x[..., 2 * half :]
        return torch.cat((rotate(front, cos, sin, interleaved=False), rest), -1)[:, 0]

    places = written.repeat_interleave(beams) - 1
    for kept, new in zip(by_torch, (turned(key), value.view(rows, kv_heads, d)), strict=True):
        kept[torch.arange(rows), :, places] = new.to(dtype)
    right = written_out(0.3 * turned(query)[:, :, None], list(prompts), by_torch, lengths, written)
    table = RotaryTable(angles.cos(), angles.sin(), interleaved)
    cached = CachedKeyValues(prompts, answers, lengths, written)
    got = attend_new_token(query, key, value, cached, table, 0.3)
    for kept, other in zip(answers, by_torch, strict=True):  # a product may be rounded once or twice
        assert torch.allclose(
            kept.float(), other.float(), rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-6
        )
    assert torch.equal(answers[1], by_torch[1]), "values are kept as torch rounds them"
    assert (got.view(right.shape) - right).abs().max() < (1e-2 if dtype == torch.bfloat16 else 1e-5)


def test_values_are_rounded_to_bf16_as_torch_rounds_them() -> None:
    odd = torch.tensor(
        [0.0, -0.0, torch.inf, -torch.inf, torch.nan, -torch.nan, 3.4e38, 1e-40, 1.00390625, 1.01171875]
    )
    value = torch.cat((odd, torch.randn(6)))[None]
    kept = CachedKeyValues(
        (torch.zeros(1, 1, 1, 16).bfloat16(), torch.zeros(1, 1, 1, 16).bfloat16()),
        (torch.zeros(1, 1, 1, 16).bfloat16(), torch.zeros(1, 1, 1, 16).bfloat16()),
        torch.tensor([1]),
        torch.tensor([1]),
    )
    no_turns = RotaryTable(torch.empty(1, 0), torch.empty(1, 0), True)
    attend_new_token(torch.zeros(1, 16), torch.zeros(1, 16), value, kept, no_turns, 1.0)
    assert torch.equal(kept.answers[1][0, 0, 0].nan_to_num(7), value[0].bfloat16().nan_to_num(7))
