"""Attention of one new token of each beam, over the keys and values that are cached of its prompt and its answer.

`decode_attention` rotates the token's query and key, caches its key and value, and attends. In C, on a CPU, each
cached number is read once for all beams and heads that share it; on a GPU two Triton launches split what they read;
torch's operators serve everywhere else, and where a window hides the oldest tokens.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor

from summarizer.ops import decode_gemm, kernel_graph, native
from summarizer.ops.elementwise import in_compute_dtype
from summarizer.ops.native import next_power_of_two
from summarizer.ops.rotary import RotaryTable, rotate

SOURCE = "decode_attention.c"
HEAD_MULTIPLE = 16
"""What the width of a head must be a multiple of, in C."""


@dataclass(frozen=True)
class CachedKeyValues:
    """Where one layer's keys and values are cached: each pair is of keys and of values."""

    prompts: tuple[Float[Tensor, "s kv_heads p d"], Float[Tensor, "s kv_heads p d"]]
    answers: tuple[Float[Tensor, "rows kv_heads g d"], Float[Tensor, "rows kv_heads g d"]]
    """rows: all beams, slot by slot."""


@dataclass
class NewTokens:
    """A pass over one new token of each beam. What it computes of the lengths, it computes where these lie."""

    lengths: Int64[Tensor, "2 s"]
    """How many tokens of each slot's prompt are cached, and how many of its answers with the new one."""
    beams: int
    longest: tuple[int, int]
    """Places of prompts and of answers that torch's form looks at: no length is above."""
    _masks: dict[int | None, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        return self.lengths.shape[1]

    @cached_property
    def rows(self) -> Int64[Tensor, " rows"]:
        return torch.arange(self.slots * self.beams, device=self.lengths.device)

    @cached_property
    def places(self) -> Int64[Tensor, " rows"]:
        """Where each new token is cached in its answer."""
        return self._of_beams(self.lengths[1] - 1)

    def masks(self, window: int | None) -> tuple[Float[Tensor, "rows 1 1 p"], Float[Tensor, "rows 1 1 g"]]:
        """What is added to the scores of a prompt's keys, and of an answer's. window: as `decode_attention`'s."""
        if window not in self._masks:
            in_prompt, in_answer = self.lengths[:, :, None]
            before = in_prompt + in_answer - (window or 0)
            prompt, answer = (torch.arange(most, device=self.lengths.device)[None] for most in self.longest)
            hidden = prompt >= in_prompt, answer >= in_answer
            if window is not None:
                hidden = hidden[0] | (prompt < before), hidden[1] | (answer + in_prompt < before)
            self._masks[window] = self._added(hidden[0]), self._added(hidden[1])
        return self._masks[window]

    def _added(self, hidden: Tensor) -> Float[Tensor, "rows 1 1 t"]:
        mask = torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -torch.inf)
        return self._of_beams(mask)[:, None, None]

    def _of_beams(self, x: Shaped[Tensor, "s ..."]) -> Shaped[Tensor, "rows ..."]:
        # Not repeat_interleave, which on a GPU reads how many there will be.
        return x[:, None].expand(-1, self.beams, *x.shape[1:]).reshape(-1, *x.shape[1:])


def decode_attention(
    query: Float[Tensor, "rows heads d"],
    key: Float[Tensor, "rows kv_heads d"],
    value: Float[Tensor, "rows kv_heads d"],
    cached: CachedKeyValues,
    now: NewTokens,
    scale: float,
    *,
    rotary: RotaryTable | None = None,
    window: int | None = None,
) -> Float[Tensor, "rows heads d"]:
    """softmax(scale q k^T) v over a slot's prompt and a beam's answer, whose last place the new token takes.

    query, key: not rotated yet, which they are in place where a kernel graph is recorded. rotary: the rows' angles;
    None for a layer that knows no positions. window: the latest tokens that are seen; None for all.
    """
    is_full = window is None
    if is_full and supports(cached.prompts[0]):
        return attend_in_c(query, key, value, cached, now, scale, rotary=rotary)
    kernel_graph.require(False, "attention")
    if is_full and supports_on_gpu(query, cached.prompts[0]):
        return attend_on_gpu(query, key, value, cached, now, scale, rotary=rotary)
    return attend_by_torch(query, key, value, cached, now, scale, rotary=rotary, window=window)


# --- by torch -----------------------------------------------------------------------------------------------------


def attend_by_torch(
    query: Float[Tensor, "rows heads d"],
    key: Float[Tensor, "rows kv_heads d"],
    value: Float[Tensor, "rows kv_heads d"],
    cached: CachedKeyValues,
    now: NewTokens,
    scale: float,
    *,
    rotary: RotaryTable | None,
    window: int | None,
) -> Float[Tensor, "rows heads d"]:
    """`decode_attention` with the prompt's keys read once for all beams."""
    if rotary is not None:
        query, key = rotate(query, rotary), rotate(key, rotary)
    for new, answers in zip((key, value), cached.answers, strict=True):
        answers[now.rows, :, now.places] = in_compute_dtype(new).to(answers.dtype)
    (keys, values), (own_keys, own_values) = cached.prompts, cached.answers
    query = in_compute_dtype(query * scale).to(keys.dtype)
    p, g = now.longest
    by_beam = query.unflatten(1, (keys.shape[1], -1))
    of_prompt, of_answer = now.masks(window)
    to_prompt = _by_slot(by_beam, now) @ keys[:, :, :p].transpose(-1, -2)
    to_answer = by_beam @ own_keys[:, :, :g].transpose(-1, -2)
    scores = torch.cat((_by_beam(to_prompt, now).float() + of_prompt, to_answer.float() + of_answer), dim=-1)
    weights = scores.softmax(dim=-1).to(values.dtype)
    from_prompt = _by_slot(weights[..., :p], now) @ values[:, :, :p]
    from_answer = weights[..., p:] @ own_values[:, :, :g]
    return (_by_beam(from_prompt, now) + from_answer).flatten(1, 2)


def _by_slot(
    x: Float[Tensor, "rows kv_heads shared k"], now: NewTokens
) -> Float[Tensor, "s kv_heads asked k"]:
    """A slot's beams ask their prompt as if they were more heads."""
    if now.beams == 1:
        return x
    _, kv_heads, shared, k = x.shape
    x = x.reshape(now.slots, now.beams, kv_heads, shared, k).transpose(1, 2)
    return x.reshape(now.slots, kv_heads, -1, k)


def _by_beam(
    x: Float[Tensor, "s kv_heads asked k"], now: NewTokens
) -> Float[Tensor, "rows kv_heads shared k"]:
    """The inverse of `_by_slot`."""
    if now.beams == 1:
        return x
    _, kv_heads, _, k = x.shape
    x = x.reshape(now.slots, kv_heads, now.beams, -1, k).transpose(1, 2)
    return x.reshape(now.slots * now.beams, kv_heads, -1, k)


# --- in C, on a CPU -----------------------------------------------------------------------------------------------


class _NewToken(ctypes.Structure):
    """`NewToken` of decode_attention.c."""

    _fields_ = [
        ("query", ctypes.c_void_p),
        ("key", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
        ("prompts", ctypes.c_void_p * 2),
        ("answers", ctypes.c_void_p * 2),
        *((name, ctypes.c_void_p) for name in ("prompt_lengths", "answer_lengths", "mixed", "cos", "sin")),
        *((name, ctypes.c_long) for name in ("slots", "beams", "kv_heads", "shared", "d")),
        *((name, ctypes.c_long) for name in ("prompt_room", "answer_room", "half")),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_int) for name in ("interleaved", "in_bf16", "threads")),
    ]


def supports(cached: Tensor) -> bool:
    """Whether the form in C reads keys or values that are cached so, a head's width in their last axis."""
    return (
        cached.device.type == "cpu"
        and cached.dtype in (torch.bfloat16, torch.float32)
        and cached.shape[-1] % HEAD_MULTIPLE == 0
        and native.available(SOURCE)
    )


def attend_in_c(
    query: Float[Tensor, "rows heads d"],
    key: Float[Tensor, "rows kv_heads d"],
    value: Float[Tensor, "rows kv_heads d"],
    cached: CachedKeyValues,
    now: NewTokens,
    scale: float,
    *,
    rotary: RotaryTable | None,
) -> Float32[Tensor, "rows heads d"]:
    """`decode_attention` over as many keys and values of each slot as its lengths say, none of them masked.

    query and key are rotated in place where they are dense and in fp32.
    """
    q, k, v = (x.float().contiguous() for x in (query, key, value))
    kernel_graph.require(q is query and k is key and v is value, "a conversion ahead of attention")
    mixed = torch.empty_like(q)
    (keys, values), (own_keys, own_values) = cached.prompts, cached.answers
    slots, kv_heads, prompt_room, d = keys.shape
    assert k.shape[1:] == v.shape[1:] == (kv_heads, d), "other heads than are cached"
    cos, sin = (None, None) if rotary is None else (rotary.cos, rotary.sin)
    given = native.structure(
        _NewToken,
        query=q,
        key=k,
        value=v,
        prompts=(ctypes.c_void_p * 2)(native.address(keys), native.address(values)),
        answers=(ctypes.c_void_p * 2)(native.address(own_keys), native.address(own_values)),
        prompt_lengths=now.lengths[0],
        answer_lengths=now.lengths[1],
        mixed=mixed,
        cos=cos,
        sin=sin,
        slots=slots,
        beams=len(q) // slots,
        kv_heads=kv_heads,
        shared=q.shape[1] // kv_heads,
        d=d,
        prompt_room=prompt_room,
        answer_room=own_keys.shape[2],
        half=0 if cos is None else cos.shape[1],
        scale=scale,
        interleaved=rotary is not None and rotary.interleaved,
        in_bf16=keys.dtype == torch.bfloat16,
        threads=torch.get_num_threads(),
    )
    keeps = (q, k, v, cos, sin, *cached.prompts, *cached.answers, now.lengths, mixed)
    kernel_graph.call(native.kernel(SOURCE, "attend"), given, keeps=keeps)
    return mixed


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
ROTATE = "rotate_token(Tensor q, Tensor k, Tensor table) -> (Tensor, Tensor)"


def supports_on_gpu(
    query: Float[Tensor, "rows heads d"], cached_prompts: Float[Tensor, "s kv_heads p d"]
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


def attend_on_gpu(
    query: Float[Tensor, "rows heads d"],
    key: Float[Tensor, "rows kv_heads d"],
    value: Float[Tensor, "rows kv_heads d"],
    cached: CachedKeyValues,
    now: NewTokens,
    scale: float,
    *,
    rotary: RotaryTable | None,
) -> Float32[Tensor, "rows heads d"]:
    """`decode_attention` in two launches, and one that rotates GPT-J's query and key."""
    attend, rotate_both = _operators()
    if rotary is not None and rotary.interleaved:
        query, key = rotate_both(query, key, rotary.sin_cos)
    elif rotary is not None:
        query, key = rotate(query, rotary), rotate(key, rotary)
    q, k, v = (x.contiguous() for x in (query, key, value))
    mixed: Tensor = attend(q, k, v, list(cached.prompts), *cached.answers, now.lengths, scale)
    return mixed


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


def launch_rotation(q: Tensor, k: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation itself, as `launch_attention`."""
    rows, heads, d = q.shape
    rotated_q, rotated_k = (torch.empty(q.shape, dtype=torch.float32, device=q.device) for _ in range(2))
    _kernels().rotate_token[(rows * heads,)](
        q.contiguous(),
        k.contiguous(),
        table,
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
