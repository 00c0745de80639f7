"""Attention of one new token of each beam, over the keys and values that are cached of its prompt and its answer.

`CachedKeyValues` says where a layer's keys and values lie. In C, on a CPU, each is read once for all beams and
heads that share it; on a GPU two Triton launches split what they attend to.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from summarizer.ops import decode_gemm, kernel_graph, native
from summarizer.ops.native import next_power_of_two
from summarizer.ops.rotary import RotaryTable

SOURCE = "decode_attention.c"
HEAD_MULTIPLE = 16
"""What the width of a head must be a multiple of, in C."""


@dataclass(frozen=True)
class CachedKeyValues:
    """One layer's cached keys and values, and how many places of each slot hold any."""

    prompts: tuple[Float[Tensor, "s kv_heads p d"], Float[Tensor, "s kv_heads p d"]]
    answers: tuple[Float[Tensor, "rows kv_heads g d"], Float[Tensor, "rows kv_heads g d"]]
    """rows: all beams, slot by slot."""
    prompt_lengths: Int64[Tensor, " s"]
    answer_lengths: Int64[Tensor, " s"]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.prompts, *self.answers, self.prompt_lengths, self.answer_lengths)


# --- in C, on a CPU -----------------------------------------------------------------------------------------------


class _Attention(ctypes.Structure):
    """`Attention` of decode_attention.c."""

    _fields_ = [
        ("query", ctypes.c_void_p),
        ("prompts", ctypes.c_void_p * 2),
        ("answers", ctypes.c_void_p * 2),
        *((name, ctypes.c_void_p) for name in ("prompt_lengths", "answer_lengths", "mixed")),
        *((name, ctypes.c_long) for name in ("slots", "beams", "kv_heads", "shared", "d")),
        *((name, ctypes.c_long) for name in ("prompt_room", "answer_room")),
        *((name, ctypes.c_int) for name in ("in_bf16", "threads")),
    ]


class _NewToken(ctypes.Structure):
    """`NewToken` of decode_attention.c."""

    _fields_ = [
        ("attention", _Attention),
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "cos", "sin")),
        ("half", ctypes.c_long),
        ("scale", ctypes.c_float),
        ("interleaved", ctypes.c_int),
    ]


def available() -> bool:
    """Whether this machine has a processor and a compiler for the form in C."""
    return native.available(SOURCE)


def supports(cached: Tensor) -> bool:
    """Whether the form in C reads keys or values that are cached so, a head's width in their last axis."""
    return (
        cached.device.type == "cpu"
        and cached.dtype in (torch.bfloat16, torch.float32)
        and cached.shape[-1] % HEAD_MULTIPLE == 0
        and available()
    )


def attend_cached(
    query: Float32[Tensor, "rows heads 1 d"], cached: CachedKeyValues
) -> Float32[Tensor, "rows 1 heads d"]:
    """softmax(q k^T) v for queries that are scaled, over as many keys and values of each slot as its lengths say.

    Only where it `supports` what is cached.
    """
    rows, heads, _, d = query.shape
    query = query.contiguous()
    mixed = torch.empty(rows, 1, heads, d)
    given = _attention(query, cached, heads, mixed)
    kernel_graph.call(native.kernel(SOURCE, "attend_one"), given, keeps=(query, *cached.tensors, mixed))
    return mixed


def attend_new_token(
    query: Float32[Tensor, "rows heads_d"],
    key: Float32[Tensor, "rows kv_heads_d"],
    value: Float32[Tensor, "rows kv_heads_d"],
    cached: CachedKeyValues,
    rotary: RotaryTable | None,
    scale: float,
) -> Float32[Tensor, "rows heads_d"]:
    """`attend_cached` for a new token as projections give it, whose key and value are cached in each answer's end.

    scale: of the query. query and key are rotated in place. rotary: None for a layer that knows no positions.
    """
    _, kv_heads, _, d = cached.prompts[0].shape
    assert key.shape[1] == value.shape[1] == kv_heads * d, "other heads than are cached"
    mixed = torch.empty_like(query)
    cos, sin = (None, None) if rotary is None else (rotary.cos, rotary.sin)
    of = {"query": query, "key": key, "value": value, "cos": cos, "sin": sin}
    given = native.structure(
        _NewToken,
        attention=_attention(query, cached, query.shape[1] // d, mixed),
        **of,
        half=0 if cos is None else cos.shape[1],
        scale=scale,
        interleaved=rotary is not None and rotary.interleaved,
    )
    kernel_graph.call(
        native.kernel(SOURCE, "attend_new"), given, keeps=(*of.values(), *cached.tensors, mixed)
    )
    return mixed


def _attention(query: Tensor, cached: CachedKeyValues, heads: int, mixed: Tensor) -> _Attention:
    slots, kv_heads, prompt_room, d = cached.prompts[0].shape
    return native.structure(
        _Attention,
        query=query,
        prompts=(ctypes.c_void_p * 2)(*map(native.address, cached.prompts)),
        answers=(ctypes.c_void_p * 2)(*map(native.address, cached.answers)),
        prompt_lengths=cached.prompt_lengths,
        answer_lengths=cached.answer_lengths,
        mixed=mixed,
        slots=slots,
        beams=len(query) // slots,
        kv_heads=kv_heads,
        shared=heads // kv_heads,
        d=d,
        prompt_room=prompt_room,
        answer_room=cached.answers[0].shape[2],
        in_bf16=cached.prompts[0].dtype == torch.bfloat16,
        threads=torch.get_num_threads(),
    )


# --- in Triton, on a GPU ------------------------------------------------------------------------------------------

MOST_QUERIES = 64
"""Queries of one slot to one head of keys: what one program holds."""
WIDEST_HEAD = 256
PROGRAMS = 264
"""Wanted at once: two for each multiprocessor of an H100."""
TOKENS_AT_ONCE = 32
SHORTEST_SPLIT = 2 * TOKENS_AT_ONCE
ATTEND = (
    "attend_token(Tensor q, Tensor k, Tensor v, Tensor[] prompts, Tensor(a!) answer_k, Tensor(b!) answer_v,"
    " Tensor lengths, float scale) -> Tensor"
)
ROTATE = "rotate_token(Tensor q, Tensor k, Tensor table, Tensor positions) -> (Tensor, Tensor)"


def supports_on_gpu(
    query: Float[Tensor, "rows heads 1 d"], cached_prompts: Float[Tensor, "s kv_heads p d"]
) -> bool:
    """Whether the form in Triton reads keys or values of prompts that are cached so, for such queries.

    In fp32 products of such tiles leave a multiprocessor's registers (Triton 3.9 for sm_90): torch's way is taken.
    """
    queries = query.shape[0] * query.shape[1] // (cached_prompts.shape[0] * cached_prompts.shape[1])
    return (
        cached_prompts.device.type == "cuda"
        and cached_prompts.dtype in (torch.bfloat16, torch.float16)
        and queries <= MOST_QUERIES
        and 16 <= query.shape[-1] <= WIDEST_HEAD
        and decode_gemm.triton_available()
    )


def attend_new_token_on_gpu(
    query: Float[Tensor, "rows heads 1 d"],
    key: Float[Tensor, "rows kv_heads 1 d"],
    value: Float[Tensor, "rows kv_heads 1 d"],
    cached: CachedKeyValues,
    lengths: Int64[Tensor, "2 s"],
    scale: float,
) -> Float32[Tensor, "rows 1 heads d"]:
    """softmax(scale q k^T) v over a slot's prompt and a beam's answer, where the new key and value are cached last.

    lengths: of prompts, and of answers with the new token, side by side in memory.
    """
    rows, heads, _, d = query.shape
    q, k, v = (x.reshape(rows, -1, d) for x in (query, key, value))
    mixed: Tensor = _operators()[0](q, k, v, list(cached.prompts), *cached.answers, lengths, scale)
    return mixed.reshape(rows, 1, heads, d)


def rotates_on_gpu(hidden: Float[Tensor, "rows t width"]) -> bool:
    """Whether queries and keys of these are one new token's of each row, which `rotate_token` is for."""
    return (
        hidden.shape[1] == 1
        and not torch.is_grad_enabled()
        and decode_gemm.is_decode_on_gpu(hidden)
        and decode_gemm.triton_available()
    )


def rotate_token(
    query: Float[Tensor, "rows heads d"],
    key: Float[Tensor, "rows heads d"],
    table: Float[Tensor, "positions rotated"],
    positions: Int64[Tensor, " rows"],
) -> tuple[Float32[Tensor, "rows heads d"], Float32[Tensor, "rows heads d"]]:
    """Both with their first `rotated` numbers turned, interleaved. table: sines, then cosines."""
    q, k = _operators()[1](query, key, table, positions)
    return q, k


def launch_attention(q: Tensor, k: Tensor, v: Tensor, prompts: list[Tensor], *more: Any) -> Tensor:
    """The attention itself, where triton can run: on a GPU, or interpreted. more: what ATTEND names next."""
    (prompt_k, prompt_v), (answer_k, answer_v, lengths, scale) = prompts, more
    kernels = _kernels()
    rows, heads, d = q.shape
    slots, kv_heads, prompt_room, _ = prompt_k.shape
    beams, shared = rows // slots, heads // kv_heads
    chunk = chunk_of(prompt_room, slots * kv_heads)
    prompt_splits = -(-prompt_room // chunk)
    splits = prompt_splits + 1
    mixed = torch.empty(rows, heads, splits, d, dtype=torch.float32, device=q.device)
    largest = torch.empty(2, rows, heads, splits, dtype=torch.float32, device=q.device)
    out = torch.empty(rows, heads, d, dtype=torch.float32, device=q.device)
    block_d = next_power_of_two(d)
    kernels.attend_split[(slots * kv_heads, prompt_splits + beams)](
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        prompt_k,
        prompt_v,
        answer_k,
        answer_v,
        lengths,
        mixed,
        largest[0],
        largest[1],
        slots,
        kv_heads,
        prompt_room,
        answer_k.shape[2],
        chunk,
        prompt_splits,
        scale,
        beams=beams,
        shared=shared,
        d=d,
        block_m=max(next_power_of_two(beams * shared), 16),
        block_d=block_d,
        block_t=TOKENS_AT_ONCE,
        num_warps=4,
        num_stages=2,
    )
    kernels.join_splits[(rows * heads,)](
        mixed, largest[0], largest[1], out, splits, d=d, block_s=next_power_of_two(splits), block_d=block_d
    )
    return out


def chunk_of(prompt_room: int, heads_of_slots: int) -> int:
    """Tokens of a prompt that one program reads, so that there are about as many as wanted."""
    splits = max(min(PROGRAMS // heads_of_slots, -(-prompt_room // SHORTEST_SPLIT)), 1)
    tokens = -(-prompt_room // splits)
    return -(-tokens // TOKENS_AT_ONCE) * TOKENS_AT_ONCE


def launch_rotation(q: Tensor, k: Tensor, table: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation itself, as `launch_attention`."""
    rows, heads, d = q.shape
    rotated_q, rotated_k = (torch.empty(q.shape, dtype=torch.float32, device=q.device) for _ in range(2))
    _kernels().rotate_token[(rows * heads,)](
        q.contiguous(),
        k.contiguous(),
        table,
        positions,
        rotated_q,
        rotated_k,
        heads,
        d=d,
        rotated=table.shape[1],
        block_d=next_power_of_two(d),
        num_warps=1,
    )
    return rotated_q, rotated_k


def _shaped_attention(q: Tensor, *more: Any) -> Tensor:
    return q.new_empty(q.shape, dtype=torch.float32)


def _shaped_rotation(q: Tensor, k: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape, dtype=torch.float32), k.new_empty(k.shape, dtype=torch.float32)


@lru_cache
def _operators() -> tuple[Any, Any]:
    """As torch's operators, for a pass on tensors without numbers, too."""
    native.define_operator(ATTEND, launch_attention, _shaped_attention, device="CUDA")
    native.define_operator(ROTATE, launch_rotation, _shaped_rotation, device="CUDA")
    own = torch.ops.summarizer
    return own.attend_token.default, own.rotate_token.default


def _kernels() -> Any:
    # At the first pass: importing triton takes longer than a command's help.
    from summarizer.ops import decode_attention_triton

    return decode_attention_triton
