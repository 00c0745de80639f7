"""Bisection against the slow search, and the memory of a device."""

from __future__ import annotations

import psutil
import pytest
import torch

from summarizer.planning.fitting import device_memory_bytes, largest_fitting


@pytest.mark.parametrize("upper", [0, 1, 2, 7, 64, 100])
def test_bisection_finds_what_trying_each_finds(upper: int) -> None:
    for limit in range(upper + 2):
        asked: list[int] = []

        def fits(number: int, limit: int = limit, asked: list[int] = asked) -> bool:
            asked.append(number)
            return number <= limit

        slow = max((number for number in range(1, upper + 1) if number <= limit), default=0)
        assert largest_fitting(fits, upper) == slow
        assert len(asked) <= upper.bit_length() + 1
        assert all(1 <= number <= upper for number in asked)


def test_memory_of_the_cpu_is_what_the_system_can_give() -> None:
    memory = device_memory_bytes(torch.device("cpu"))
    assert 0 < memory < psutil.virtual_memory().total


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_a_card_counts_what_the_allocator_keeps() -> None:
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    before = device_memory_bytes(device)
    block = torch.empty(2**28, dtype=torch.uint8, device=device)
    assert device_memory_bytes(device) == pytest.approx(before, rel=0.01)
    del block
    assert device_memory_bytes(device) == pytest.approx(before, rel=0.01)
