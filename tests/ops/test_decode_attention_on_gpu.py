"""Attention of one new token on a GPU, in Triton: interpreted here, against softmax in fp64."""

from __future__ import annotations

import pytest
import torch
from interpreted import interpreted, interpreting
from torch import Tensor

from summarizer.ops.decode_attention import (
    PROGRAMS,
    CachedKeyValues,
    NewTokens,
    attend_on_gpu,
    chunk_of,
    launch_attention,
    launch_rotation,
    supports_on_gpu,
)
from summarizer.ops.rotary import RotaryTable, rotate

__all__ = ["interpreting"]
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SHAPES = [
    # slots, beams, kv_heads, shared, d, prompt lengths, answer lengths
    (1, 1, 2, 1, 256, [70], [1]),
    (2, 1, 2, 2, 64, [1, 37], [5, 40]),
    (2, 4, 1, 3, 48, [130, 5], [1, 9]),
    (3, 3, 2, 1, 16, [64, 32, 33], [33, 32, 1]),
]

GENERATOR = torch.Generator().manual_seed(4)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def case(
    slots: int, beams: int, kv_heads: int, shared: int, d: int, prompts: list[int], answers: list[int]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """What is given and kept, NaN wherever nothing is; and the lengths; and what is wanted, in fp64."""
    rows, room, answer_room = slots * beams, max(prompts) + 3, max(answers) + 2
    q, k, v = drawn(rows, kv_heads * shared, d), drawn(rows, kv_heads, d), drawn(rows, kv_heads, d)
    kept = [torch.full((slots, kv_heads, room, d), torch.nan) for _ in range(2)]
    kept += [torch.full((rows, kv_heads, answer_room, d), torch.nan) for _ in range(2)]
    wanted = torch.empty(rows, kv_heads * shared, d, dtype=torch.float64)
    for row in range(rows):
        slot = row // beams
        for place in (0, 1):
            if row % beams == 0:
                kept[place][slot, :, : prompts[slot]] = drawn(kv_heads, prompts[slot], d)
            kept[2 + place][row, :, : answers[slot] - 1] = drawn(kv_heads, answers[slot] - 1, d)
        for head in range(kv_heads * shared):
            own = head // shared
            keys, values = (
                torch.cat(
                    (
                        kept[i][slot, own, : prompts[slot]],
                        kept[2 + i][row, own, : answers[slot] - 1],
                        new[row, own][None],
                    )
                ).double()
                for i, new in ((0, k), (1, v))
            )
            wanted[row, head] = ((keys @ q[row, head].double()) * 0.3).softmax(0) @ values
    return [q, k, v, *kept], torch.tensor([prompts, answers]), wanted


@interpreted
@pytest.mark.usefixtures("interpreting")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_softmax_over_prompt_and_answer(shape: tuple[int, ...], precision: torch.dtype) -> None:
    given, lengths, wanted = case(*shape)  # type: ignore[arg-type]
    given[3:] = [kept.to(precision) for kept in given[3:]]
    q, k, v, prompt_k, prompt_v, *answers = given
    mixed = launch_attention(q, k, v, [prompt_k, prompt_v], *answers, lengths, 0.3)
    bound = 2e-6 if precision == torch.float32 else 2e-2
    assert (mixed - wanted).abs().max() < bound * wanted.abs().max()
    for new, kept in ((given[1], given[5]), (given[2], given[6])):
        for row in range(len(new)):
            place = int(lengths[1, row // shape[1]]) - 1
            # The interpreter cuts off what bf16 does not hold, where a GPU rounds.
            assert torch.allclose(kept[row, :, place].float(), new[row], rtol=2**-7, atol=0)
            assert kept[row, :, place + 1 :].isnan().all()


@interpreted
@pytest.mark.usefixtures("interpreting")
def test_neighbors_turn_as_gptj_turns_them() -> None:
    q, k = drawn(5, 3, 48), drawn(5, 3, 48)
    table = RotaryTable(drawn(5, 16), drawn(5, 16), interleaved=True)
    for got, x in zip(launch_rotation(q, k, table.sin_cos), (q, k), strict=True):
        assert torch.allclose(got, rotate(x, table), atol=1e-6)


@pytest.mark.parametrize(("room", "heads"), [(1024, 16), (1, 1), (1024, 512), (37, 2), (2048, 8)])
def test_a_room_is_split_for_as_many_programs_as_wanted(room: int, heads: int) -> None:
    splits = -(-room // chunk_of(room, heads))
    assert splits == 1 or splits * heads <= PROGRAMS
    assert room < 1024 or heads > PROGRAMS or splits * heads > PROGRAMS / 2


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_gpu_gives_the_same(shape: tuple[int, ...], precision: torch.dtype) -> None:
    given, lengths, wanted = case(*shape)  # type: ignore[arg-type]
    q, k, v, *kept = (x.cuda() for x in given)
    prompt_k, prompt_v, answer_k, answer_v = (x.to(precision) for x in kept)
    cached = CachedKeyValues((prompt_k, prompt_v), (answer_k, answer_v))
    now = NewTokens(lengths.cuda(), shape[1], (prompt_k.shape[2], answer_k.shape[2]))
    mixed = attend_on_gpu(q, k, v, cached, now, 0.3, rotary=None)
    assert supports_on_gpu(q, prompt_k)
    bound = 2e-2
    assert (mixed.cpu() - wanted).abs().max() < bound * wanted.abs().max()
    q, k = drawn(3, 3, 48), drawn(3, 3, 48)
    table = RotaryTable(drawn(3, 8), drawn(3, 8), interleaved=True)
    got, _ = launch_rotation(q.cuda(), k.cuda(), table.sin_cos.cuda())
    assert torch.allclose(got.cpu(), rotate(q, table), atol=1e-6)
