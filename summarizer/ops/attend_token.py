"""Attention of one new token of each beam on a card: two launches, and one that turns its query and key."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from summarizer.ops import few_rows_triton as few_rows
from summarizer.ops.few_rows import are_few_on_a_card
from summarizer.ops.operators import define
from summarizer.ops.triton_sizes import power_of_two

MOST_ASKED = 64
"""Queries of one slot to one head of keys: what one program holds."""
WIDEST = 256
"""Of a head."""
PROGRAMS = 264
"""Wanted at once: two for each multiprocessor of an H100."""
TOKENS_AT_ONCE = 32
SHORTEST_SPLIT = 2 * TOKENS_AT_ONCE
ATTEND = (
    "attend_token(Tensor q, Tensor k, Tensor v, Tensor prompt_k, Tensor prompt_v, Tensor(a!) answer_k,"
    " Tensor(b!) answer_v, Tensor lengths, float scale) -> Tensor"
)
TURN = "turn_neighbors(Tensor q, Tensor k, Tensor table, Tensor positions) -> (Tensor, Tensor)"


def takes(query: Float[Tensor, "rows heads 1 d"], kept_prompts: Float[Tensor, "s kv_heads p d"]) -> bool:
    """Whether keys or values of prompts are kept in a way that `attend_token` reads for such queries.

    In fp32 products of such tiles leave a multiprocessor's registers (Triton 3.9 for sm_90): torch's way is taken.
    """
    asked = query.shape[0] * query.shape[1] // (kept_prompts.shape[0] * kept_prompts.shape[1])
    return (
        kept_prompts.device.type == "cuda"
        and kept_prompts.dtype in (torch.bfloat16, torch.float16)
        and asked <= MOST_ASKED
        and 16 <= query.shape[-1] <= WIDEST
        and few_rows.is_at_hand()
    )


def attend_token(
    query: Float[Tensor, "rows heads 1 d"],
    key: Float[Tensor, "rows kv_heads 1 d"],
    value: Float[Tensor, "rows kv_heads 1 d"],
    prompts: tuple[Float[Tensor, "s kv_heads p d"], Float[Tensor, "s kv_heads p d"]],
    answers: tuple[Float[Tensor, "rows kv_heads g d"], Float[Tensor, "rows kv_heads g d"]],
    lengths: Int64[Tensor, "2 s"],
    scale: float,
) -> Float32[Tensor, "rows 1 heads d"]:
    """softmax(scale q k^T) v over a slot's prompt and a beam's answer, where the new key and value are kept last.

    lengths: of prompts, and of answers with the new token.
    """
    rows, heads, _, d = query.shape
    given = (x.reshape(rows, -1, d) for x in (query, key, value))
    mixed: Tensor = _operators()[0](*given, *prompts, *answers, lengths, scale)
    return mixed.reshape(rows, 1, heads, d)


def turns(hidden: Float[Tensor, "rows t width"]) -> bool:
    """Whether queries and keys of these are one new token's of each row, which `turned` is for."""
    return (
        hidden.shape[1] == 1
        and not torch.is_grad_enabled()
        and are_few_on_a_card(hidden)
        and few_rows.is_at_hand()
    )


def turned(
    query: Float[Tensor, "rows heads d"],
    key: Float[Tensor, "rows heads d"],
    table: Float[Tensor, "positions rotated"],
    positions: Int64[Tensor, " rows"],
) -> tuple[Float32[Tensor, "rows heads d"], Float32[Tensor, "rows heads d"]]:
    """Both with their first `rotated` numbers turned, neighbors together. table: sines, then cosines."""
    q, k = _operators()[1](query, key, table, positions)
    return q, k


def launch_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prompt_k: Tensor,
    prompt_v: Tensor,
    answer_k: Tensor,
    answer_v: Tensor,
    lengths: Tensor,
    scale: float,
) -> Tensor:
    """The attention itself, where triton can run: on a card, or interpreted."""
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
    block_d = power_of_two(d)
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
        block_m=max(power_of_two(beams * shared), 16),
        block_d=block_d,
        block_t=TOKENS_AT_ONCE,
        num_warps=4,
        num_stages=2,
    )
    kernels.join_splits[(rows * heads,)](
        mixed, largest[0], largest[1], out, splits, d=d, block_s=power_of_two(splits), block_d=block_d
    )
    return out


def chunk_of(prompt_room: int, heads_of_slots: int) -> int:
    """Tokens of a prompt that one program reads, so that there are about as many as wanted."""
    splits = max(min(PROGRAMS // heads_of_slots, -(-prompt_room // SHORTEST_SPLIT)), 1)
    tokens = -(-prompt_room // splits)
    return -(-tokens // TOKENS_AT_ONCE) * TOKENS_AT_ONCE


def launch_turning(q: Tensor, k: Tensor, table: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The turning itself."""
    rows, heads, d = q.shape
    turned_q, turned_k = (torch.empty(q.shape, dtype=torch.float32, device=q.device) for _ in range(2))
    _kernels().turn_neighbors[(rows * heads,)](
        q.contiguous(),
        k.contiguous(),
        table,
        positions,
        turned_q,
        turned_k,
        heads,
        d=d,
        rotated=table.shape[1],
        block_d=power_of_two(d),
        num_warps=1,
    )
    return turned_q, turned_k


def _mixed(q: Tensor, *others: Any) -> Tensor:
    return q.new_empty(q.shape, dtype=torch.float32)


def _turned(q: Tensor, k: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape, dtype=torch.float32), k.new_empty(k.shape, dtype=torch.float32)


@lru_cache
def _operators() -> tuple[Any, Any]:
    """As torch's operators, for a pass on tensors without numbers, too."""
    define(ATTEND, launch_attention, _mixed, device="CUDA")
    define(TURN, launch_turning, _turned, device="CUDA")
    own = torch.ops.summarizer
    return own.attend_token.default, own.turn_neighbors.default


def _kernels() -> Any:
    # At the first pass: importing triton takes longer than a command's help.
    from summarizer.ops import attend_token_kernels

    return attend_token_kernels
