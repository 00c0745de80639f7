"""Every Triton kernel compiled for an H100 in the shapes of GPT-J-6B, which takes no GPU: a line of JSON for each.

python for_an_h100.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from summarizer.ops import decode_attention_triton, decode_gemm_triton
from summarizer.ops.decode_attention import TOKENS_AT_ONCE
from summarizer.ops.decode_gemm import blocks_for

FP32 = (
    "scale",
    "bias",
    "a",
    "b",
    "pair_scale",
    "narrow",
    "y",
    "q",
    "k",
    "v",
    "mixed",
    "largest",
    "sum",
    "out",
    "table",
)
TYPES = {f"{name}_ptr": "*fp32" for name in (*FP32, "q_out", "k_out")} | {"scale": "fp32"}
WIDE, ROOMS = 4096, ("prompt_k_ptr", "prompt_v_ptr", "answer_k_ptr", "answer_v_ptr")


def compiled(kernel: Any, types: dict[str, str], warps: int, num_stages: int = 3, **fixed: Any) -> Any:
    """types: of arguments that are neither fp32 tensors nor int32. Places and widths are multiples of 16."""
    names = kernel.arg_names
    known = TYPES | types
    signature = {n: "constexpr" if n in fixed else known.get(n, "i32") for n in names}
    even = [n for n in names if signature[n].startswith("*") or n in ("n", "k")]
    source = ASTSource(
        kernel,
        signature,
        constexprs={(names.index(name),): value for name, value in fixed.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in even},
    )
    return triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": num_stages}
    )


def all_kernels() -> Iterator[tuple[str, Any]]:
    weights = {"q_ptr": "*i8", "x_ptr": "*fp32"}
    for rows in (1, 4, 64, 128):
        of_rows = weights if rows == 1 else weights | {"x_ptr": "*bf16"}
        blocks = blocks_for(rows, WIDE, WIDE, torch.bfloat16)
        warps = blocks.pop("num_warps")
        fixed: dict[str, Any] = blocks | {"has_bias": True, "has_pairs": True}
        if rows == 1:
            fixed |= {"narrow_here": True, "block_r": 2}
        kernel = decode_gemm_triton.one_row if rows == 1 else decode_gemm_triton.some_rows
        yield f"rows {rows}", compiled(kernel, of_rows, warps, **fixed)
    yield "narrow", compiled(decode_gemm_triton.narrow_rows, {"x_ptr": "*bf16"}, 4, block_r=2, block_k=1024)
    kept = dict.fromkeys(ROOMS, "*bf16") | {"lengths_ptr": "*i64"}
    for beams in (1, 4):
        shape = {"beams": beams, "shared": 1, "d": 256, "block_m": 16, "block_d": 256}
        kernel = decode_attention_triton.attend_split
        yield f"attend {beams}", compiled(kernel, kept, 4, num_stages=2, block_t=TOKENS_AT_ONCE, **shape)
    yield "join", compiled(decode_attention_triton.join_splits, {}, 4, d=256, block_s=32, block_d=256)
    turning = decode_attention_triton.rotate_token
    yield "turn", compiled(turning, {}, 1, d=256, rotated=64, block_d=256)


if __name__ == "__main__":
    for name, kernel in all_kernels():
        ptx = kernel.asm["ptx"]
        told = {
            "kernel": name,
            "shared_bytes": kernel.metadata.shared,
            "copies_of_16_bytes": len(
                re.findall(r"cp\.async\.cg\.shared\.global \[[^\]]*\], \[[^\]]*\], 0x10", ptx)
            ),
            "matrix_units": re.search(r"\b(wgmma\.mma_async|mma\.sync)\b", ptx) is not None,
            "local_bytes": sum(int(size) for size in re.findall(r"\.local .*\[(\d+)\]", ptx)),
        }
        print(json.dumps(told))
