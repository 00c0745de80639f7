"""Causal attention of packed examples on a CPU, both passes: the kernel, blocks of torch's products, torch's own.

    python experiments/training_throughput/attention.py --turns 9

Each is timed once in each turn, so that all see the machine in the same state. Milliseconds are medians over turns;
GFLOP/s count the products that a causal mask leaves, two of the forward pass and five of the backward.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from summarizer.ops import attention, native

Attention = Callable[[Tensor, Tensor, Tensor, list[int], float], Tensor]
SHAPES = {
    "16 x 380 tokens, 5 heads of 64": ([380] * 16, 5, 5, 64),
    "2 x 480 tokens, 9 heads of 64, 3 of keys": ([480] * 2, 9, 3, 64),
    "1 x 1024 tokens, 16 heads of 256": ([1024], 16, 16, 256),
}


def alone(take: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Attention:
    """One example after the other."""

    def each(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scaling: float) -> Tensor:
        borders = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
        return torch.cat([take(q[a:b], k[a:b], v[a:b], scaling) for a, b in pairwise(borders)])

    return each


def contenders() -> dict[str, Attention]:
    by_torch = {"blocks": alone(attention.block_attention), "torch": alone(attention.whole_attention)}
    return (
        {"kernel": attention.causal_attention, **by_torch} if native.available(attention.SOURCE) else by_torch
    )


def measure(
    lengths: list[int], heads: int, kv_heads: int, d: int, turns: int
) -> dict[str, tuple[float, float]]:
    """Milliseconds of each contender: forward, backward."""
    tokens = sum(lengths)
    shapes = [(tokens, count, d) for count in (heads, kv_heads, kv_heads)]
    given = [torch.randn(shape).bfloat16().requires_grad_() for shape in shapes]
    towards = torch.randn(tokens, heads, d).bfloat16()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders()}
    for _ in range(turns + 1):
        for name, attend in contenders().items():
            begun = time.perf_counter()
            out = attend(given[0], given[1], given[2], lengths, d**-0.5)
            between = time.perf_counter()
            torch.autograd.grad(out, given, towards)
            times[name].append((between - begun, time.perf_counter() - between))
    return {
        name: tuple(statistics.median(part) * 1e3 for part in zip(*seen[1:], strict=True))
        for name, seen in times.items()
    }


def main(typed: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args(typed)
    for title, (lengths, heads, kv_heads, d) in SHAPES.items():
        print(f"{title}, {torch.get_num_threads()} threads")
        pairs = sum(t * (t + 1) // 2 for t in lengths) * heads
        for name, (forward, backward) in measure(lengths, heads, kv_heads, d, options.turns).items():
            rates = [products * 2 * d * pairs / ms / 1e6 for products, ms in ((2, forward), (5, backward))]
            print(
                f"  {name:7} forward {forward:7.2f} ms, {rates[0]:4.0f} GFLOP/s;"
                f" backward {backward:7.2f} ms, {rates[1]:4.0f} GFLOP/s"
            )


if __name__ == "__main__":
    main()
