"""Kernels of a graph do what they do when they are called, on what lies in memory by then."""

from __future__ import annotations

import pytest
import torch

from summarizer.ops import decode_gemm, native
from summarizer.ops.activations import gelu_tanh_
from summarizer.ops.decode_gemm import WHOLE_NUMBERS
from summarizer.ops.elementwise import add_
from summarizer.ops.kernel_graph import SOURCE, KernelGraph, call, recorded

pytestmark = pytest.mark.skipif(
    not native.available(SOURCE), reason="the kernels want Linux, AVX-512 and a compiler"
)


def test_nothing_runs_until_the_graph_does_and_then_each_time_anew() -> None:
    x, step = torch.zeros(2, 20), torch.ones(2, 20)
    with recorded() as graph:
        add_(x, step)
        gelu_tanh_(x)
    assert not x.any()
    assert graph.names == ["add", "activate"]
    expected = x.clone()
    for size in (1.0, -0.25, 3.0):
        step.fill_(size)
        graph.run()
        expected = torch.nn.functional.gelu(expected + size, approximate="tanh")
        assert torch.allclose(x, expected, atol=1e-6)
    add_(x, step)  # behind the block, at once
    assert torch.allclose(x, expected + 3.0, atol=1e-6)


def test_what_a_graph_reads_and_writes_lives_as_long_as_the_graph() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(-127, 128, (3000, 512), generator=generator, dtype=torch.int8)
    x, scale = torch.randn(2, 512, generator=generator), torch.rand(3000, 1, generator=generator)
    right = decode_gemm.int8_gemm(x, q, scale)
    with recorded() as graph:
        add_(decode_gemm.int8_gemm(x, q.clone(), scale.clone()), torch.ones(2, 3000))
    others = [torch.randn(3000, 128) for _ in range(4)]  # would lie where freed memory lay
    got = decode_gemm.int8_gemm(x, q, scale)
    with recorded() as second:
        y = decode_gemm.int8_gemm(x.clone(), q.clone(), scale.clone())
    graph.run()
    second.run()
    assert torch.equal(y, right)
    assert torch.equal(got, right)
    assert len(others) == 4


def test_a_copy_is_told_from_the_tensor_itself() -> None:
    x = torch.zeros(1, 32)
    with recorded() as graph:
        add_(x, torch.ones(1, 32))
        assert graph.last_uses(x)
        assert not graph.last_uses(x.clone())


def test_a_kernel_without_memory_is_named() -> None:
    """A product so wide that no memory holds its rows: rows of x, which the kernel allocates, of 2^61 numbers."""
    loaded = native.library(WHOLE_NUMBERS)
    assert loaded is not None
    product = decode_gemm._Product(m=1, k=1 << 61, n=0)
    nothing = torch.empty(0)
    with pytest.raises(MemoryError, match="int8_product"):
        call(loaded.int8_product, product, nothing, nothing)
    graph = KernelGraph()
    graph.add(loaded.int8_product, (product, nothing, nothing), ())
    with pytest.raises(MemoryError, match="int8_product"):
        graph.run()
