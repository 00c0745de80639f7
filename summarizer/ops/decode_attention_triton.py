"""The Triton kernels of decode_attention.py: a new token's attention, split over what it attends to.

Shapes: q (rows, kv_heads, shared, d), k and v (rows, kv_heads, d), cached prompts (s, kv_heads, p, d), cached
answers (rows, kv_heads, g, d), lengths (2, s). Partial results, one for each split: (rows, kv_heads, shared,
splits).
"""

# Triton's own language: its compiler gives every name a type of its own.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend_split(
    q_ptr,
    k_ptr,
    v_ptr,
    prompt_k_ptr,
    prompt_v_ptr,
    answer_k_ptr,
    answer_v_ptr,
    lengths_ptr,
    mixed_ptr,
    largest_ptr,
    sum_ptr,
    slots,
    kv_heads,
    prompt_room,
    answer_room,
    chunk,
    prompt_splits,
    scale,
    beams: tl.constexpr,
    shared: tl.constexpr,
    d: tl.constexpr,
    block_m: tl.constexpr,
    block_d: tl.constexpr,
    block_t: tl.constexpr,
):
    """A part of a prompt for all beams of its slot, or a beam's answer, where its new key and value are cached."""
    slot = tl.program_id(0) // kv_heads
    head = tl.program_id(0) % kv_heads
    split = tl.program_id(1)
    asked = tl.arange(0, block_m)
    width = tl.arange(0, block_d)
    inside = width < d
    row = slot * beams + asked // shared
    real = asked < beams * shared
    query = (row * kv_heads + head) * shared + asked % shared
    both = real[:, None] & inside[None, :]
    q = tl.load(q_ptr + query[:, None] * d + width[None, :], mask=both, other=0.0)
    q = q.to(prompt_k_ptr.dtype.element_ty)
    largest = tl.full((block_m,), float("-inf"), tl.float32)
    total = tl.zeros((block_m,), tl.float32)
    mixed = tl.zeros((block_m, block_d), tl.float32)
    tokens = tl.arange(0, block_t)
    of_prompt = split < prompt_splits
    beam = tl.where(of_prompt, 0, split - prompt_splits)
    own = (slot * beams + beam) * kv_heads + head
    kept = tl.where(of_prompt, slot * kv_heads + head, own).to(tl.int64)
    place = tl.load(lengths_ptr + slots + slot).to(tl.int32) - 1
    new_k = tl.load(k_ptr + own * d + width, mask=inside, other=0.0).to(prompt_k_ptr.dtype.element_ty)
    new_v = tl.load(v_ptr + own * d + width, mask=inside, other=0.0).to(prompt_k_ptr.dtype.element_ty)
    if of_prompt:
        keys, values = prompt_k_ptr + kept * prompt_room * d, prompt_v_ptr + kept * prompt_room * d
        first = split * chunk
        end = tl.minimum(first + chunk, tl.load(lengths_ptr + slot).to(tl.int32))
        place = -1
    else:
        keys, values = answer_k_ptr + kept * answer_room * d, answer_v_ptr + kept * answer_room * d
        first = 0
        end = place + 1
        tl.store(keys + place * d + width, new_k, mask=inside)
        tl.store(values + place * d + width, new_v, mask=inside)
    for start in range(first, end, block_t):
        token = start + tokens
        live = token < end
        tile = token[:, None] * d + width[None, :]
        # What this program has just stored other threads of it may not see: it is taken from where it came.
        stored = (live & (token != place))[:, None] & inside[None, :]
        is_new = (token == place)[:, None]
        k = tl.load(keys + tile, mask=stored, other=0.0)
        k = tl.where(is_new, new_k[None, :], k)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(live[None, :], scores, float("-inf"))
        above = tl.maximum(largest, tl.max(scores, axis=1))
        weights = tl.exp(scores - above[:, None])
        fading = tl.exp(largest - above)
        v = tl.load(values + tile, mask=stored, other=0.0)
        v = tl.where(is_new, new_v[None, :], v)
        total = total * fading + tl.sum(weights, axis=1)
        mixed = mixed * fading[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        largest = above
    # An answer's part is its own beam's alone; it comes last of the splits.
    whose = asked // shared
    mine = real & (whose == tl.where(of_prompt, whose, beam))
    partial = query * (prompt_splits + 1) + tl.where(of_prompt, split, prompt_splits)
    tl.store(largest_ptr + partial, largest, mask=mine)
    tl.store(sum_ptr + partial, total, mask=mine)
    tl.store(mixed_ptr + partial[:, None] * d + width[None, :], mixed, mask=mine[:, None] & inside[None, :])


@triton.jit
def join_splits(
    mixed_ptr,
    largest_ptr,
    sum_ptr,
    out_ptr,
    splits,
    d: tl.constexpr,
    block_s: tl.constexpr,
    block_d: tl.constexpr,
):
    """One query's softmax over all splits. One that saw nothing has a largest score of -inf, and counts nothing."""
    query = tl.program_id(0)
    split = tl.arange(0, block_s)
    width = tl.arange(0, block_d)
    there = split < splits
    partial = query * splits + split
    largest = tl.load(largest_ptr + partial, mask=there, other=float("-inf"))
    share = tl.exp(largest - tl.max(largest, axis=0))
    total = tl.sum(share * tl.load(sum_ptr + partial, mask=there, other=0.0), axis=0)
    both = there[:, None] & (width < d)[None, :]
    mixed = tl.load(mixed_ptr + partial[:, None] * d + width[None, :], mask=both, other=0.0)
    out = tl.sum(mixed * share[:, None], axis=0) / total
    tl.store(out_ptr + query * d + width, out, mask=width < d)


@triton.jit
def rotate_token(
    q_ptr,
    k_ptr,
    table_ptr,
    q_out_ptr,
    k_out_ptr,
    heads,
    d: tl.constexpr,
    rotated: tl.constexpr,
    block_d: tl.constexpr,
):
    """Rotary position embeddings of a row's head of q and of k; the table holds each row's sines, then cosines."""
    row = tl.program_id(0) // heads
    base = tl.program_id(0) * d
    width = tl.arange(0, block_d)
    inside, turns = width < d, width < rotated
    angle = table_ptr + row * rotated + width // 2
    sin = tl.load(angle, mask=turns, other=0.0).to(tl.float32)
    cos = tl.load(angle + rotated // 2, mask=turns, other=1.0).to(tl.float32)
    sin = tl.where(width % 2 == 0, -sin, sin)
    for which in tl.static_range(2):
        x_ptr = q_ptr if which == 0 else k_ptr
        y_ptr = q_out_ptr if which == 0 else k_out_ptr
        x = tl.load(x_ptr + base + width, mask=inside, other=0.0).to(tl.float32)
        neighbor = tl.load(x_ptr + base + (width ^ 1), mask=turns, other=0.0).to(tl.float32)
        tl.store(y_ptr + base + width, x * cos + neighbor * sin, mask=inside)
