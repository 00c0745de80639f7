from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from summarizer.ops import native
from summarizer.ops.loss import token_losses

IGNORED = -100


@pytest.fixture(params=[True, False], ids=["in C", "by torch"], autouse=True)
def in_c(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(native, "library", lambda source: None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1), (5, 16), (7, 33), (64, 1001), (0, 5)])
@pytest.mark.parametrize("size", [1.0, 80.0], ids=["small", "large"])
def test_losses_and_gradients_are_torch_s_in_fp64(
    dtype: torch.dtype, shape: tuple[int, int], size: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(shape, generator=generator) * size).to(dtype).requires_grad_()
    targets = torch.randint(0, shape[1], shape[:1], generator=generator)
    targets[1::3] = IGNORED
    weights = torch.rand(shape[0], generator=generator)
    losses = token_losses(logits, targets, IGNORED)
    (losses * weights).sum().backward()
    exact = logits.detach().double().requires_grad_()
    right = F.cross_entropy(exact, targets, ignore_index=IGNORED, reduction="none")
    (right * weights).sum().backward()
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), right, rtol=1e-5, atol=2e-5)
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    rounding = 2**-8 if dtype == torch.bfloat16 else 2e-5
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=rounding, atol=2e-6)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_what_is_not_finite_is_seen_in_its_own_row_alone(wrong: float) -> None:
    logits = torch.randn(3, 40)
    logits[1, 39] = wrong
    losses = token_losses(logits, torch.tensor([0, 1, 2]), IGNORED)
    assert losses.isfinite().tolist() == [True, False, True]


def test_a_token_that_there_is_none_of_has_no_loss_that_passes_for_one() -> None:
    try:
        losses = token_losses(torch.randn(2, 40), torch.tensor([40, 1]), IGNORED)
    except IndexError:
        return  # torch's own way of saying so
    assert losses.isnan().tolist() == [True, False]


def test_what_has_gaps_is_read_right() -> None:
    wide = torch.randn(4, 90)
    targets = torch.tensor([[3, 0], [44, 0], [0, 0], [9, 0]])[:, 0]
    right = F.cross_entropy(wide[:, ::2], targets, reduction="none")
    torch.testing.assert_close(token_losses(wide[:, ::2], targets, IGNORED), right)


def test_it_is_planned_on_fake_tensors() -> None:
    with FakeTensorMode():
        logits = torch.randn(3, 40, requires_grad=True)
        token_losses(logits, torch.tensor([0, 1, 2]), IGNORED).sum().backward()
        assert logits.grad is not None
        assert logits.grad.shape == (3, 40)
