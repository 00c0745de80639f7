"""Attention over packed sequences: each to itself alone, by every form, against softmax written out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from summarizer.ops import attention, flash_attention
from summarizer.ops.attention import masked_attention, packed_attention

pytestmark = pytest.mark.versions


def heads(count: int, tokens: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(
        2, count, tokens, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("function", ["packed", "masked"])
def test_each_sequence_attends_to_itself_alone(kv_heads: int, scaling: float | None, function: str) -> None:
    q, k, v = heads(4, 9, 8, 0), heads(kv_heads, 9, 8, 1), heads(kv_heads, 9, 8, 2)
    cu_seqlens = [0, 4, 9, 9 + 1, 9 + 7, 18]
    given = torch.tensor(cu_seqlens, dtype=torch.int32)
    out = (masked_attention if function == "masked" else packed_attention)(q, k, v, given, scaling)
    for start, end in pairwise(cu_seqlens):
        row, own = start // 9, slice(start % 9, (end - 1) % 9 + 1)
        for head in range(4):
            kv = head * kv_heads // 4
            scores = q[row, head, own] @ k[row, kv, own].T * (8**-0.5 if scaling is None else scaling)
            causal = torch.ones_like(scores, dtype=torch.bool).triu(1)
            slow = scores.masked_fill(causal, -torch.inf).softmax(-1) @ v[row, kv, own]
            torch.testing.assert_close(out[row, own, head], slow)


@pytest.mark.parametrize("function", [packed_attention, masked_attention])
def test_an_overflow_in_one_row_stays_there(function: Callable[..., torch.Tensor]) -> None:
    given = [heads(4, 6, 8, seed).requires_grad_() for seed in range(3)]
    out = function(*given, torch.tensor([0, 2, 6, 9, 12], dtype=torch.int32), None)
    grad = torch.ones_like(out)
    grad[1, 0] = torch.inf
    out.backward(grad)
    assert all(tensor.grad is not None and tensor.grad[0].isfinite().all() for tensor in given)
    assert not all(tensor.grad is not None and tensor.grad[1].isfinite().all() for tensor in given)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_gpu_s_kernel_is_asked_for_what_it_takes(kv_heads: int) -> None:
    """On fake tensors: torch's own shape functions check the call."""
    with FakeTensorMode():
        q, k, v = (
            torch.empty(12, count, 64, dtype=torch.bfloat16, device="cuda")
            for count in (4, kv_heads, kv_heads)
        )
        cu_seqlens = torch.empty(3, dtype=torch.int32, device="cuda")
        for scaling in (None, 0.5):
            assert flash_attention.flash_attention(q, k, v, cu_seqlens, scaling).shape == (12, 4, 64)


@pytest.mark.parametrize(
    ("width", "way"),
    [(64, "flash_attention"), (256, "flash_attention"), (20, "masked_attention"), (264, "masked_attention")],
)
def test_heads_that_the_gpu_s_kernel_refuses_are_masked(
    width: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=9, minor=0))
    taken: list[str] = []
    monkeypatch.setattr(
        flash_attention, "flash_attention", lambda q, *given: (taken.append("flash_attention"), q)[1]
    )
    monkeypatch.setattr(
        attention,
        "masked_attention",
        lambda q, *given: (taken.append("masked_attention"), q.transpose(1, 2))[1],
    )
    with FakeTensorMode():
        q, k, v = (torch.empty(1, 4, 12, width, dtype=torch.bfloat16, device="cuda:0") for _ in "qkv")
        cu_seqlens = torch.empty(3, dtype=torch.int32, device="cuda:0")
        assert packed_attention(q, k, v, cu_seqlens).shape == (1, 12, 4, width)
    assert taken == [way]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("d", [64, 256])
def test_the_gpu_attends_as_the_cpu_does(kv_heads: int, d: int) -> None:
    on_cpu = [
        torch.randn(2, count, 40, d, generator=torch.Generator().manual_seed(seed))
        .bfloat16()
        .requires_grad_()
        for seed, count in enumerate((4, kv_heads, kv_heads))
    ]
    on_gpu = [tensor.detach().cuda().requires_grad_() for tensor in on_cpu]
    cu_seqlens = torch.tensor([0, 7, 40, 51, 80], dtype=torch.int32)
    expected, got = packed_attention(*on_cpu, cu_seqlens), packed_attention(*on_gpu, cu_seqlens.cuda())
    torch.testing.assert_close(got.cpu(), expected, rtol=2e-2, atol=2e-2)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    got.backward(grad.cuda())
    for theirs, ours in zip(on_cpu, on_gpu, strict=True):
        assert theirs.grad is not None
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad, rtol=5e-2, atol=5e-2)
