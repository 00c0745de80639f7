"""Kernels on a tape do what they do when they are called, on what lies in memory by then."""

from __future__ import annotations

import pytest
import torch

from summarizer.ops import between, few_rows
from summarizer.ops.tape import Tape, call, taken_down

pytestmark = pytest.mark.skipif(
    not between.is_at_hand(), reason="the kernels want Linux, AVX-512 and a compiler"
)


def test_nothing_runs_until_the_tape_does_and_then_each_time_anew() -> None:
    x, step = torch.zeros(2, 20), torch.ones(2, 20)
    with taken_down() as tape:
        between.add_(x, step)
        between.tanh_gelu_(x)
    assert not x.any()
    assert tape.names == ["add", "activate"]
    expected = x.clone()
    for size in (1.0, -0.25, 3.0):
        step.fill_(size)
        tape.run()
        expected = torch.nn.functional.gelu(expected + size, approximate="tanh")
        assert torch.allclose(x, expected, atol=1e-6)
    between.add_(x, step)  # behind the block, at once
    assert torch.allclose(x, expected + 3.0, atol=1e-6)


def test_what_a_tape_reads_and_writes_lives_as_long_as_the_tape() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(-127, 128, (3000, 512), generator=generator, dtype=torch.int8)
    x, scale = torch.randn(2, 512, generator=generator), torch.rand(3000, 1, generator=generator)
    right = few_rows.int8_product(x, q, scale)
    with taken_down() as tape:
        between.add_(few_rows.int8_product(x, q.clone(), scale.clone()), torch.ones(2, 3000))
    others = [torch.randn(3000, 128) for _ in range(4)]  # would lie where freed memory lay
    got = few_rows.int8_product(x, q, scale)
    with taken_down() as second:
        y = few_rows.int8_product(x.clone(), q.clone(), scale.clone())
    tape.run()
    second.run()
    assert torch.equal(y, right)
    assert torch.equal(got, right)
    assert len(others) == 4


def test_a_copy_is_told_from_the_tensor_itself() -> None:
    x = torch.zeros(1, 32)
    with taken_down() as tape:
        between.add_(x, torch.ones(1, 32))
        assert tape.last_uses(x)
        assert not tape.last_uses(x.clone())


def test_a_kernel_without_memory_is_named() -> None:
    """A product so wide that no memory holds its rows: rows of x, which the kernel allocates, of 2^61 numbers."""
    loaded = few_rows.library(few_rows.SOURCE)
    assert loaded is not None
    product = few_rows._Product(m=1, k=1 << 61, n=0)
    nothing = torch.empty(0)
    with pytest.raises(MemoryError, match="int8_product"):
        call(loaded.int8_product, product, nothing, nothing)
    tape = Tape()
    tape.add(loaded.int8_product, (product, nothing, nothing), ())
    with pytest.raises(MemoryError, match="int8_product"):
        tape.run()
