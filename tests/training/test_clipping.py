"""Clipping of a group's trials against torch's own for each trial."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from summarizer.training.step import clip_gradients

SHAPES = [[(2, 64), (3, 1000), (7,)], [(2, 64)], [(16, 300), (5,), (4, 4), (9, 9)]]


def drawn() -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(shape, generator=generator) for shape in own] for own in SHAPES]


def by_torch(gradients: list[list[Tensor]], limits: list[float | None]) -> list[Tensor]:
    norms = []
    for own, limit in zip(gradients, limits, strict=True):
        parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in own]
        for parameter, gradient in zip(parameters, own, strict=True):
            parameter.grad = gradient
        norms.append(nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit))
    return norms


@pytest.mark.parametrize("limits", [[1.0, 1.0, 1.0], [0.5, None, 1e6], [None, None, None]])
def test_each_trial_is_clipped_as_torch_clips_it(limits: list[float | None]) -> None:
    found, expected = drawn(), drawn()
    norms = clip_gradients(found, limits)
    assert torch.equal(norms, torch.stack(by_torch(expected, limits)))
    for own, others in zip(found, expected, strict=True):
        for one, other in zip(own, others, strict=True):
            assert torch.equal(one, other)


def test_the_company_of_other_trials_changes_no_bit() -> None:
    together = drawn()
    norms = clip_gradients(together, [1.0] * 3)
    for i, own in enumerate(drawn()):
        assert torch.equal(clip_gradients([own], [1.0])[0], norms[i])
        assert all(torch.equal(one, other) for one, other in zip(own, together[i], strict=True))


def test_a_norm_that_is_not_finite_spoils_its_own_trial_alone() -> None:
    gradients = drawn()
    gradients[1][0][0, 0] = math.inf
    norms = clip_gradients(gradients, [1.0, 1.0, 1.0])
    assert norms.isfinite().tolist() == [True, False, True]
    assert all(gradient.isfinite().all() for gradient in (*gradients[0], *gradients[2]))


def test_without_a_limit_gradients_are_only_measured() -> None:
    gradients = drawn()
    gradients[0][0][0, 0] = 1e38
    gradients[0][0][0, 1] = 3e38
    kept = [gradient.clone() for gradient in gradients[0]]
    assert clip_gradients(gradients, [None, 1.0, 1.0])[0] == math.inf
    assert all(torch.equal(one, other) for one, other in zip(gradients[0], kept, strict=True))


def test_norms_of_all_trials_are_one_call() -> None:
    counts = []
    for several in (1, 50):
        gradients = [[torch.ones(3) for _ in range(20)] for _ in range(several)]
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            clip_gradients(gradients, [1.0] * several)
        counts.append({event.key: event.count for event in profile.key_averages()}["aten::_foreach_norm"])
    assert counts == [1, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_not_waited_for() -> None:
    gradients = [[gradient.cuda() for gradient in own] for own in drawn()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        clip_gradients(gradients, [1.0, None, 2.0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
