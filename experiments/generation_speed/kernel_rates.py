"""The kernels that writing a token is made of, one by one, beside torch's own and beside a sum of the same memory.

    python experiments/generation_speed/kernel_rates.py [--rows 1 4] [--threads 2]

Each line is the best of several passes over matrices that no cache holds, in an order that alternates.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch

from summarizer.ops import decode_gemm, native, prefill_gemm
from summarizer.ops.decode_attention import CachedKeyValues, NewTokens, attend_in_c
from summarizer.ops.decode_gemm import Epilogue, LowRankPairs
from summarizer.quantization import blockwise8, fp8

SHAPES = ((4096, 4096), (4096, 16384), (16384, 4096))
"""Inputs and outputs of GPT-J-6B's linear layers."""
WEIGHTS_AT_ONCE = 400_000_000
"""Of different matrices, one after the other."""
PASSES = 5
PROMPT = 512
"""Tokens that attention looks back on, or that are read at once."""
LAYERS, HEADS, WIDTH = 28, 16, 256

Way = Callable[[int], object]


def best_s(ways: dict[str, Way], count: int) -> dict[str, float]:
    """Seconds of one call, the best of PASSES over `count` of them."""
    found = dict.fromkeys(ways, float("inf"))
    for _ in range(PASSES):
        for name, way in ways.items():
            begun_s = time.perf_counter()
            for place in range(count):
                way(place)
            found[name] = min(found[name], (time.perf_counter() - begun_s) / count)
    return found


def products(k: int, n: int, rows: int) -> dict[str, tuple[float, float]]:
    """Seconds, and bytes of stored weights, of one product of `rows` rows."""
    count = max(2, WEIGHTS_AT_ONCE // (k * n))
    q = [torch.randint(-127, 128, (n, k), dtype=torch.int8) for _ in range(count)]
    packed = [torch.randint(0, 256, (n * k // 2,), dtype=torch.uint8) for _ in range(count)]
    dense = [torch.randn(n, k, dtype=torch.bfloat16) for _ in range(max(2, count // 2))]
    scale, ones = torch.rand(n, 1), torch.ones(n).bfloat16()
    absmax, code, codes = torch.rand(n * k // 64), torch.randn(16), torch.randn(256)
    of_blocks = absmax[: -(-n * k // blockwise8.BLOCK)]
    x = torch.randn(rows, k)
    narrow = x.bfloat16()
    pairs = LowRankPairs(torch.randn(1, 2, k), torch.randn(1, 2, n), torch.ones(1, 1, 1))
    ways: dict[str, Way] = {
        "int8": lambda i: decode_gemm.int8_gemm(x, q[i], scale),
        "int8 with adapters": lambda i: decode_gemm.int8_gemm(x, q[i], scale, Epilogue(pairs=pairs)),
        "torch's int8": lambda i: torch._weight_int8pack_mm(narrow, q[i], ones),
        "nf4": lambda i: decode_gemm.nf4_gemm(x, packed[i], absmax, code),
        "blockwise8": lambda i: decode_gemm.blockwise8_gemm(x, q[i].view(torch.uint8), of_blocks, codes),
        "blockwise8 made dense": lambda i: blockwise8.FORMAT.matmul(
            narrow, {"q": q[i].view(torch.uint8), "absmax": of_blocks, "code": codes}, (n, k)
        ),
        "fp8": lambda i: decode_gemm.fp8_gemm(x, q[i].view(torch.float8_e4m3fn), scale),
        "fp8 made dense": lambda i: fp8.FORMAT.matmul(
            narrow, {"q": q[i].view(torch.float8_e4m3fn), "scale": scale}, (n, k)
        ),
        "none in bf16": lambda i: decode_gemm.dense_gemm(x, dense[i % len(dense)]),
        "torch's bf16": lambda i: torch.nn.functional.linear(narrow, dense[i % len(dense)]),
        "a sum": lambda i: q[i].view(torch.float32).sum(),
    }
    bytes_of_a_weight = {"nf4": 0.5 + 4 / 64, "none in bf16": 2, "torch's bf16": 2}
    return {
        name: (seconds, n * k * bytes_of_a_weight.get(name, 1))
        for name, seconds in best_s(ways, count).items()
    }


def attention() -> dict[str, float]:
    """Seconds of a layer's attention for one token, with keys and values in bf16, by layers that take turns."""
    query, new = torch.randn(1, HEADS, 1, WIDTH), torch.randn(1, HEADS, WIDTH)
    kept = [[torch.randn(1, HEADS, PROMPT, WIDTH).bfloat16() for _ in range(2)] for _ in range(LAYERS)]
    answer = torch.randn(1, HEADS, 1, WIDTH).bfloat16()
    now = NewTokens(torch.tensor([[PROMPT], [1]]), 1, (PROMPT, 1))

    def by_torch(layer: int) -> torch.Tensor:
        keys, values = kept[layer]
        return (query.bfloat16() @ keys.transpose(-1, -2)).float().softmax(-1).bfloat16() @ values

    return best_s(
        {
            "in C": lambda layer: attend_in_c(
                query[:, :, 0],
                new,
                new,
                CachedKeyValues((kept[layer][0], kept[layer][1]), (answer, answer)),
                now,
                1.0,
                rotary=None,
            ),
            "two batched products": by_torch,
            "torch's SDPA": lambda layer: torch.nn.functional.scaled_dot_product_attention(
                query.bfloat16(), *kept[layer]
            ),
        },
        LAYERS,
    )


def reading(k: int, n: int) -> dict[str, float]:
    """Seconds of a product of a whole prompt."""
    x, scale = torch.randn(PROMPT, k).bfloat16(), torch.rand(n, 1)
    q = torch.randint(-127, 128, (n, k), dtype=torch.int8)
    whole = torch.randint(-127, 128, (PROMPT, k), dtype=torch.int8)
    return best_s(
        {
            "8 bits, 16 in the largest columns": lambda _: prefill_gemm.whole_number_gemm(x, q, scale),
            "16 bits in all columns": lambda _: prefill_gemm.int8_gemm_in_c(x, q, scale, None),
            "torch's _int_mm alone": lambda _: torch._int_mm(whole, q.t()),
            "bf16, weights made dense": lambda _: x @ q.bfloat16().t(),
        },
        1,
    )


def table(rows: Sequence[int]) -> str:
    lines = ["| a product | rows | way | ms | GB/s of weights |", "|---|---|---|---|---|"]
    for k, n in SHAPES:
        for count in rows:
            for name, (seconds, size) in products(k, n, count).items():
                lines.append(
                    f"| {k:,} to {n:,} | {count} | {name} | {seconds * 1e3:.2f} | {size / seconds / 1e9:.1f} |"
                )
    lines += ["", f"| attention of one token over {PROMPT} | ms a layer |", "|---|---|"]
    lines += [f"| {name} | {seconds * 1e3:.2f} |" for name, seconds in attention().items()]
    lines += ["", f"| a prompt of {PROMPT} | way | ms | GMAC/s |", "|---|---|---|---|"]
    for k, n in SHAPES:
        for name, seconds in reading(k, n).items():
            rate = PROMPT * k * n / seconds / 1e9
            lines.append(f"| {k:,} to {n:,} | {name} | {seconds * 1e3:.0f} | {rate:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4], help="that a product has")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    if not all(map(native.available, (decode_gemm.WHOLE_NUMBERS, decode_gemm.CODED))):
        sys.exit("the kernels want Linux, AVX-512 with VNNI and VBMI, and a C compiler")
    torch.set_num_threads(arguments.threads)
    print(table(arguments.rows))


if __name__ == "__main__":
    main()
