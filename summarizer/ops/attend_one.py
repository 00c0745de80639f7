"""Attention of one new token of each beam, over keys and values where they are kept: attend_one.c for tensors."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from summarizer.ops.compiled import kernels, library, place_of
from summarizer.ops.tape import call

SOURCE = Path(__file__).with_name("attend_one.c")
WIDTH = 16
"""What the width of a head must be a multiple of."""


class _Attention(ctypes.Structure):
    """`Attention` of attend_one.c."""

    _fields_ = [
        ("query", ctypes.c_void_p),
        ("prompts", ctypes.c_void_p * 2),
        ("answers", ctypes.c_void_p * 2),
        ("prompt_lengths", ctypes.c_void_p),
        ("answer_lengths", ctypes.c_void_p),
        ("mixed", ctypes.c_void_p),
        ("slots", ctypes.c_long),
        ("beams", ctypes.c_long),
        ("kv_heads", ctypes.c_long),
        ("shared", ctypes.c_long),
        ("d", ctypes.c_long),
        ("prompt_room", ctypes.c_long),
        ("answer_room", ctypes.c_long),
        ("in_bf16", ctypes.c_int),
        ("threads", ctypes.c_int),
    ]


class _NewToken(ctypes.Structure):
    """`NewToken` of attend_one.c."""

    _fields_ = [
        ("attention", _Attention),
        ("query", ctypes.c_void_p),
        ("key", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("half", ctypes.c_long),
        ("scale", ctypes.c_float),
        ("neighbors", ctypes.c_int),
    ]


@dataclass(frozen=True)
class Kept:
    """Keys and values of one layer, and how many of each slot's rooms hold any."""

    prompts: tuple[Float[Tensor, "s kv_heads p d"], Float[Tensor, "s kv_heads p d"]]
    answers: tuple[Float[Tensor, "rows kv_heads g d"], Float[Tensor, "rows kv_heads g d"]]
    """rows: of all beams, slot by slot."""
    prompt_lengths: Int64[Tensor, " s"]
    answer_lengths: Int64[Tensor, " s"]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.prompts, *self.answers, self.prompt_lengths, self.answer_lengths)


@dataclass(frozen=True)
class Turns:
    """Rotary position embeddings of each row's new token.

    Source: Su et al. 2021 (arXiv:2104.09864).
    """

    cos: Float32[Tensor, "rows half"]
    sin: Float32[Tensor, "rows half"]
    neighbors: bool
    """Pairs that turn together are 2i and 2i + 1 of a head, as GPT-J has it; else i and half + i, as Llama."""


def is_at_hand() -> bool:
    """Whether this machine has a processor and a compiler for it."""
    return library(SOURCE) is not None


def takes(kept: Tensor) -> bool:
    """Whether keys or values of a head's width in their last axis are kept in a way that it reads."""
    return (
        kept.device.type == "cpu"
        and kept.dtype in (torch.bfloat16, torch.float32)
        and kept.shape[-1] % WIDTH == 0
        and is_at_hand()
    )


def attend_one(query: Float32[Tensor, "rows heads 1 d"], kept: Kept) -> Float32[Tensor, "rows 1 heads d"]:
    """softmax(q k^T) v for queries that are scaled, over as many keys and values of each slot as its lengths say.

    Only where it `takes` what is kept.
    """
    rows, heads, _, d = query.shape
    query = query.contiguous()
    mixed = torch.empty(rows, 1, heads, d)
    call(
        kernels(SOURCE).attend_one, _attention(query, kept, heads, mixed), uses=(query, *kept.tensors, mixed)
    )
    return mixed


def attend_new(
    query: Float32[Tensor, "rows heads_d"],
    key: Float32[Tensor, "rows kv_heads_d"],
    value: Float32[Tensor, "rows kv_heads_d"],
    kept: Kept,
    turns: Turns,
    scale: float,
) -> Float32[Tensor, "rows heads_d"]:
    """The same for a new token as projections give it: turned, its key and value kept in each answer's last place.

    scale: of the query.  query and key are turned in place.
    """
    _, kv_heads, _, d = kept.prompts[0].shape
    assert key.shape[1] == value.shape[1] == kv_heads * d, "other heads than are kept"
    mixed = torch.empty_like(query)
    given = _NewToken(
        attention=_attention(query, kept, query.shape[1] // d, mixed),
        query=place_of(query),
        key=place_of(key),
        value=place_of(value),
        cos=place_of(turns.cos),
        sin=place_of(turns.sin),
        half=turns.cos.shape[1],
        scale=scale,
        neighbors=turns.neighbors,
    )
    uses = (query, key, value, turns.cos, turns.sin, *kept.tensors, mixed)
    call(kernels(SOURCE).attend_new, given, uses=uses)
    return mixed


def _attention(query: Tensor, kept: Kept, heads: int, mixed: Tensor) -> _Attention:
    slots, kv_heads, prompt_room, d = kept.prompts[0].shape
    return _Attention(
        query=place_of(query),
        prompts=(ctypes.c_void_p * 2)(*(place_of(part) for part in kept.prompts)),
        answers=(ctypes.c_void_p * 2)(*(place_of(part) for part in kept.answers)),
        prompt_lengths=place_of(kept.prompt_lengths),
        answer_lengths=place_of(kept.answer_lengths),
        mixed=place_of(mixed),
        slots=slots,
        beams=len(query) // slots,
        kv_heads=kv_heads,
        shared=heads // kv_heads,
        d=d,
        prompt_room=prompt_room,
        answer_room=kept.answers[0].shape[2],
        in_bf16=kept.prompts[0].dtype == torch.bfloat16,
        threads=torch.get_num_threads(),
    )
