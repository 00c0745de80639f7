"""Attention of one token in C, against softmax written out in fp64, one head after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from summarizer.model.kernels.attend_one import Kept, attend_one, is_at_hand, takes

pytestmark = pytest.mark.skipif(
    not is_at_hand(), reason="the kernel wants Linux, AVX-512 and a C compiler; torch's operators serve here"
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
        assert takes(kept)
    for slot in range(slots):
        for kept in prompts:
            kept[slot, :, lengths[slot] :] = torch.nan
        for kept in answers:
            kept[slot * beams : (slot + 1) * beams, :, written[slot] :] = torch.nan
    got = attend_one(query, Kept((prompts[0], prompts[1]), (answers[0], answers[1]), lengths, written))
    assert got.shape == right.shape
    assert (got - right).abs().max() < 1e-5


def test_heads_of_a_width_that_is_no_whole_register_are_left_to_torch() -> None:
    assert not takes(torch.zeros(1, 1, 4, 24))
    assert not takes(torch.zeros(1, 1, 4, 32, dtype=torch.float16))
