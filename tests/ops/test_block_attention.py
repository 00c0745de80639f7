from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from summarizer.ops import attention
from summarizer.ops.attention import block_attention


def given(t: int, kv_heads: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    shapes = ((t, 4, 16), (t, kv_heads, 16), (t, kv_heads, 16))
    return tuple(torch.randn(shape).to(dtype).requires_grad_() for shape in shapes)


def by_torch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
    heads_first = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))
    out = F.scaled_dot_product_attention(*heads_first, is_causal=True, scale=scaling, enable_gqa=True)
    return out[0].transpose(0, 1)


def with_gradients(function: object, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    out = function(*tensors, 0.3)  # type: ignore[operator]
    towards = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return [out, *torch.autograd.grad(out, tensors, towards)]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("t", [1, 5, 8, 21])
def test_forward_and_backward_are_torch_s(t: int, kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 8)
    tensors = given(t, kv_heads, torch.float32)
    ours, theirs = (with_gradients(function, tensors) for function in (block_attention, by_torch))
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_it_is_as_near_to_the_truth_as_torch(dtype: torch.dtype) -> None:
    tensors = given(300, 2, dtype)
    exact = with_gradients(by_torch, tuple(tensor.detach().double().requires_grad_() for tensor in tensors))
    ours, theirs = (with_gradients(function, tensors) for function in (block_attention, by_torch))
    for truth, mine, other in zip(exact, ours, theirs, strict=True):
        assert mine.dtype == dtype
        error, torch_s = ((found.double() - truth).norm() / truth.norm() for found in (mine, other))
        assert error < 1.5 * torch_s
