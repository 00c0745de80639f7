"""A new token's attention, by torch and in C, against softmax written out in fp64, one head after the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from summarizer.ops import native
from summarizer.ops.decode_attention import (
    SOURCE,
    CachedKeyValues,
    NewTokens,
    attend_by_torch,
    attend_in_c,
    decode_attention,
    supports,
)
from summarizer.ops.kernel_graph import NotRecordableError, recorded
from summarizer.ops.rotary import RotaryTable, rotate

in_c = pytest.mark.skipif(
    not native.available(SOURCE), reason="the kernel wants Linux, AVX-512 and a C compiler"
)
FORMS = [pytest.param("torch"), pytest.param("C", marks=in_c)]
DTYPES = [torch.float32, torch.bfloat16]


def form_of(name: str, window: int | None = None) -> Callable[..., Tensor]:
    if name == "C":
        return attend_in_c
    return lambda *given, **more: attend_by_torch(*given, **more, window=window)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def written_out(query: Tensor, cached: CachedKeyValues, lengths: Tensor, window: int | None = None) -> Tensor:
    """Of queries that are rotated and scaled, over what is cached, the new token's included."""
    rows, heads, d = query.shape
    slots, kv_heads = cached.prompts[0].shape[:2]
    out = torch.empty(rows, heads, d, dtype=torch.float64)
    for row in range(rows):
        slot = row // (rows // slots)
        prompt, answer = lengths[:, slot]
        for head in range(heads):
            of = head // (heads // kv_heads)
            keys, values = (
                torch.cat((prompts[slot, of, :prompt], answers[row, of, :answer])).double()
                for prompts, answers in zip(cached.prompts, cached.answers, strict=True)
            )
            seen = slice(None if window is None else -window, None)
            out[row, head] = (keys[seen] @ query[row, head].double()).softmax(0) @ values[seen]
    return out


def case(
    slots: int, beams: int, kv_heads: int, d: int, dtype: torch.dtype, nothing: float
) -> tuple[CachedKeyValues, NewTokens]:
    """nothing: what lies behind a slot's lengths."""
    lengths = torch.tensor([[37, 1, 20], [1, 9, 4]])[:, :slots].contiguous()
    prompts = [drawn(slots, kv_heads, 37, d, seed=i).to(dtype) for i in range(2)]
    answers = [drawn(slots * beams, kv_heads, 9, d, seed=i).to(dtype) for i in (2, 3)]
    for slot in range(slots):
        for both, mine, length in (
            (prompts, slice(slot, slot + 1), lengths[0, slot]),
            (answers, slice(slot * beams, (slot + 1) * beams), lengths[1, slot] - 1),
        ):
            for part in both:
                part[mine, :, length:] = nothing
    cached = CachedKeyValues((prompts[0], prompts[1]), (answers[0], answers[1]))
    return cached, NewTokens(lengths, beams, (37, 9))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("slots", "beams", "kv_heads", "shared", "d"),
    [(1, 1, 4, 1, 256), (3, 1, 2, 3, 64), (2, 4, 2, 2, 16), (1, 3, 1, 5, 80), (2, 2, 3, 1, 48)],
)
def test_it_is_softmax_over_prompt_and_answer(
    dtype: torch.dtype, slots: int, beams: int, kv_heads: int, shared: int, d: int, form: str
) -> None:
    # In C what lies behind a slot's lengths is never read; torch hides it behind a mask.
    cached, now = case(slots, beams, kv_heads, d, dtype, torch.nan if form == "C" else 0.0)
    rows = slots * beams
    query, key, value = (drawn(rows, n, d, seed=n) for n in (kv_heads * shared, kv_heads, kv_heads))
    got = form_of(form)(query.clone(), key, value, cached, now, d**-0.5, rotary=None)
    for part, new in zip(cached.answers, (key, value), strict=True):
        for row in range(rows):
            assert torch.equal(part[row, :, now.lengths[1, row // beams] - 1], new[row].to(dtype))
    right = written_out(query * d**-0.5, cached, now.lengths)
    assert got.shape == right.shape
    bound = 1e-5 if form == "C" or dtype == torch.float32 else 3e-2
    assert (got - right).abs().max() < bound


def test_a_window_hides_the_oldest_tokens() -> None:
    cached, now = case(3, 2, 2, 16, torch.float32, 0.0)
    query, key, value = (drawn(6, n, 16, seed=n) for n in (4, 2, 2))
    got = decode_attention(query.clone(), key, value, cached, now, 0.25, window=8)
    right = written_out(query * 0.25, cached, now.lengths, window=8)
    assert (got - right).abs().max() < 1e-5


def test_what_has_no_kernel_is_not_recorded() -> None:
    cached, now = case(1, 1, 2, 16, torch.float32, 0.0)
    query, key, value = (drawn(1, 2, 16, seed=n) for n in range(3))
    with recorded(), pytest.raises(NotRecordableError):
        decode_attention(query, key, value, cached, now, 0.25, window=8)
    if native.available(SOURCE):
        with recorded() as graph:
            decode_attention(query, key, value, cached, now, 0.25)
            with pytest.raises(NotRecordableError, match="conversion"):
                decode_attention(query.bfloat16(), key, value, cached, now, 0.25)
        assert graph.names == ["attend"]


@in_c
def test_heads_of_a_width_that_is_no_whole_register_are_left_to_torch() -> None:
    assert not supports(torch.zeros(1, 1, 4, 24))
    assert not supports(torch.zeros(1, 1, 4, 32, dtype=torch.float16))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("half", [0, 4, 16])
def test_a_new_token_is_rotated_and_cached(
    dtype: torch.dtype, interleaved: bool, half: int, form: str
) -> None:
    """Against the rotation of whole sequences, cached by torch's rounding."""
    slots, beams, kv_heads, shared, d = 2, 3, 2, 2, 32
    cached, now = case(slots, beams, kv_heads, d, dtype, 0.0)
    rows = slots * beams
    query, key, value = (drawn(rows, n, d, seed=half + n) for n in (kv_heads * shared, kv_heads, kv_heads))
    angles = drawn(rows, half, seed=half)
    table = RotaryTable(angles.cos(), angles.sin(), interleaved)
    turned_query, turned_key = rotate(query, table), rotate(key, table)
    got = form_of(form)(query, key, value, cached, now, 0.3, rotary=table)
    keys, values = (part[now.rows, :, now.places] for part in cached.answers)
    # A product may be rounded once or twice.
    assert torch.allclose(
        keys.float(),
        turned_key.to(dtype).float(),
        rtol=1e-2 if dtype == torch.bfloat16 else 1e-6,
        atol=1e-6,
    )
    assert torch.equal(values, value.to(dtype)), "values are cached as torch rounds them"
    right = written_out(0.3 * turned_query, cached, now.lengths)
    assert (got - right).abs().max() < (3e-2 if dtype == torch.bfloat16 else 1e-5)


@in_c
def test_values_are_rounded_to_bf16_as_torch_rounds_them() -> None:
    odd = torch.tensor(
        [0.0, -0.0, torch.inf, -torch.inf, torch.nan, -torch.nan, 3.4e38, 1e-40, 1.00390625, 1.01171875]
    )
    value = torch.cat((odd, torch.randn(6)))[None, None]
    both = [(torch.zeros(1, 1, 1, 16).bfloat16(), torch.zeros(1, 1, 1, 16).bfloat16()) for _ in range(2)]
    cached, now = CachedKeyValues(*both), NewTokens(torch.ones(2, 1, dtype=torch.int64), 1, (1, 1))
    attend_in_c(torch.zeros(1, 1, 16), torch.zeros(1, 1, 16), value, cached, now, 1.0, rotary=None)
    assert torch.equal(cached.answers[1][0, 0, 0].nan_to_num(7), value[0, 0].bfloat16().nan_to_num(7))
