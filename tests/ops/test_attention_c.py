from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from summarizer.ops import attention, native
from summarizer.ops.attention import SOURCE, causal_attention, supports

pytestmark = pytest.mark.skipif(not native.available(SOURCE), reason="needs a processor that multiplies bf16")

LENGTHS = [380, 1, 17, 64, 2, 65, 49]


def drawn(heads: int, kv_heads: int, d: int, lengths: Sequence[int], seed: int = 0) -> list[Tensor]:
    """q, k, v, and what the gradient of the output is."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(sum(lengths), count, d) for count in (heads, kv_heads, kv_heads, heads)]
    return [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]


def passes(
    attend: Callable[..., Tensor], given: Sequence[Tensor], lengths: Sequence[int], scaling: float
) -> list[Tensor]:
    """The output and the gradients of q, k and v."""
    inputs = [tensor.detach().requires_grad_() for tensor in given[:3]]
    out = attend(*inputs, lengths, scaling)
    return [out.detach(), *torch.autograd.grad(out, inputs, given[3])]


def by_torch(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], scaling: float) -> Tensor:
    return torch.cat(
        [
            F.scaled_dot_product_attention(
                *(tensor.transpose(0, 1)[None] for tensor in part),
                is_causal=True,
                scale=scaling,
                enable_gqa=True,
            )[0].transpose(0, 1)
            for part in zip(*(tensor.split(list(lengths)) for tensor in (q, k, v)), strict=True)
        ]
    )


@pytest.mark.parametrize(
    ("heads", "kv_heads", "d"),
    [
        (5, 5, 64),
        (9, 3, 64),
        (4, 1, 16),
        (2, 2, 256),
        (3, 3, 80),
        (2, 1, 96),
        (2, 2, 32),
        (2, 2, 48),
        (4, 2, 128),
    ],
)
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_both_passes_are_nearer_to_the_truth_than_torch_s_in_bf16(
    heads: int, kv_heads: int, d: int, scaling: float | None
) -> None:
    given, scale = drawn(heads, kv_heads, d, LENGTHS), d**-0.5 if scaling is None else scaling
    exact = passes(by_torch, [tensor.double() for tensor in given], LENGTHS, scale)
    ours, theirs = (passes(attend, given, LENGTHS, scale) for attend in (causal_attention, by_torch))
    for truth, mine, other in zip(exact, ours, theirs, strict=True):
        assert mine.dtype == torch.bfloat16
        error, torch_s = ((found.double() - truth).norm() / truth.norm() for found in (mine, other))
        assert error < 1.1 * torch_s
        assert (mine.double() - truth).abs().max() < 0.02 * truth.abs().max()


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_an_example_is_to_the_last_bit_what_it_is_alone_and_among_others(kv_heads: int) -> None:
    given = drawn(4, kv_heads, 64, LENGTHS)
    packed = [x.split(LENGTHS) for x in passes(causal_attention, given, LENGTHS, 0.125)]
    parts = [x.split(LENGTHS) for x in given]
    order = [3, 6, 0, 5, 1, 4, 2]
    shuffled = [torch.cat([part[i] for i in order]) for part in parts]
    lengths = [LENGTHS[i] for i in order]
    again = [x.split(lengths) for x in passes(causal_attention, shuffled, lengths, 0.125)]
    for place, number in enumerate(order):
        own = [part[number] for part in parts]
        alone = passes(causal_attention, own, [LENGTHS[number]], 0.125)
        for whole, moved, single in zip(packed, again, alone, strict=True):
            assert torch.equal(whole[number], single)
            assert torch.equal(moved[place], single)


def test_neither_the_number_of_threads_nor_the_time_changes_a_bit() -> None:
    given, threads = drawn(6, 3, 64, LENGTHS), torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 2, 5):
            torch.set_num_threads(count)
            found.append(passes(causal_attention, given, LENGTHS, 0.125))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(one, another) for one, another in zip(found[0], other, strict=True))


def test_tensors_may_lie_in_memory_as_a_model_leaves_them() -> None:
    """Heads before tokens, parts of a wider product, a gradient that is one number everywhere."""
    given = drawn(4, 4, 32, LENGTHS)
    dense = passes(causal_attention, given, LENGTHS, 0.2)
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in given]
    wide = torch.cat(given, dim=-1).split(32, dim=-1)
    every_second = [torch.stack((x, x), dim=-1)[..., 0] for x in given]
    for other in (turned, wide, every_second):
        assert not any(x.is_contiguous() for x in other)
        found = passes(causal_attention, other, LENGTHS, 0.2)
        assert all(torch.equal(one, another) for one, another in zip(dense, found, strict=True))
    ones = [*given[:3], torch.ones(1, 1, 1, dtype=torch.bfloat16).expand(given[3].shape)]
    whole = [*given[:3], ones[3].contiguous()]
    for one, another in zip(*(passes(causal_attention, x, LENGTHS, 0.2) for x in (ones, whole)), strict=True):
        assert torch.equal(one, another)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_example(broken: float) -> None:
    lengths = [40, 70, 30]
    for spoilt in range(4):
        given = drawn(2, 2, 16, lengths)
        given[spoilt][69] = broken
        parts = [found.split(lengths) for found in passes(causal_attention, given, lengths, 0.25)]
        assert all(before.isfinite().all() and after.isfinite().all() for before, _, after in parts)
        assert not all(own.isfinite().all() for _, own, _ in parts)


def test_scores_of_any_size_are_weighed() -> None:
    """The largest is taken off before the exponential: 2^(30^2) is no number."""
    lengths = [100]
    given = drawn(2, 2, 64, lengths)
    given[0], given[1] = given[0] * 30, given[1] * 30
    exact = passes(by_torch, [tensor.double() for tensor in given], lengths, 0.125)
    found = passes(causal_attention, given, lengths, 0.125)
    torch.testing.assert_close(found[0].double(), exact[0], rtol=2e-2, atol=2e-2)


def watched(asked: list[int]) -> type:
    class Watched(attention._CausalAttention):
        @classmethod
        def apply(cls, *given: object) -> object:
            asked.append(1)
            return causal_function(*given)

    causal_function = attention._CausalAttention.apply
    return Watched


def test_packed_attention_is_by_the_kernel_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, _ = (x.transpose(0, 1)[None] for x in drawn(4, 2, 64, LENGTHS))
    borders = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    asked = []
    monkeypatch.setattr(attention, "_CausalAttention", watched(asked))
    by_kernel = attention.packed_attention(q, k, v, borders)
    assert asked
    monkeypatch.setattr(native, "available", lambda source: False)
    by_blocks = attention.packed_attention(q, k, v, borders)
    assert len(asked) == 1
    torch.testing.assert_close(by_kernel, by_blocks, rtol=2e-2, atol=2e-2)


def test_other_precisions_and_widths_are_left_to_torch() -> None:
    assert supports(torch.zeros(3, 1, 64, dtype=torch.bfloat16))
    assert not supports(torch.zeros(3, 1, 24, dtype=torch.bfloat16))
    assert not supports(torch.zeros(3, 1, 64, dtype=torch.float16))
    assert not supports(torch.zeros(3, 1, 64))


def test_what_a_plan_is_told_of_the_operators_is_so() -> None:
    q, k, v, grad = drawn(4, 2, 32, [5, 7])
    forward, backward = (
        torch.ops.summarizer.causal_attention.default,
        torch.ops.summarizer.causal_attention_backward.default,
    )
    out, logs = forward(q, k, v, [5, 7], 0.2)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(forward, (q, k, v, [5, 7], 0.2), test_utils=checks)
    torch.library.opcheck(backward, (grad, q, k, v, out, logs, [5, 7], 0.2), test_utils=checks)
