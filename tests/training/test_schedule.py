"""The schedule against torch's own schedulers and closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from summarizer.config.schema import ScheduleConfig
from summarizer.training.schedule import rate_factor


def factors(name: str, warmup: int, final: float, total: int) -> list[float]:
    schedule = ScheduleConfig(name=name, warmup_steps=warmup, final_fraction=final)  # type: ignore[arg-type]
    return [rate_factor(schedule, step, total) for step in range(1, total + 1)]


def test_constant_rises_over_the_warmup_and_stays() -> None:
    assert factors("constant", 4, 0.0, 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert factors("constant", 0, 0.0, 3) == [1.0, 1.0, 1.0]


def test_cosine_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9, eta_min=0.1)
    expected = []
    for _ in range(10):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert factors("cosine", 0, 0.1, 10) == pytest.approx(expected)


def test_linear_falls_to_its_end_along_a_line() -> None:
    got = factors("linear", 5, 0.2, 25)
    assert got[4] == 1.0
    assert got[-1] == pytest.approx(0.2)
    assert [b - a for a, b in itertools.pairwise(got[4:])] == pytest.approx([-0.04] * 20)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 3, 30])
def test_every_factor_lies_between_zero_and_one(name: str, warmup: int) -> None:
    got = factors(name, warmup, 0.0, 10)
    assert all(0 <= factor <= 1 and math.isfinite(factor) for factor in got)
    assert got[0] > 0 or warmup > 1
