"""Attention of one new token of each beam, over keys and values where they are kept: attend_one.c for tensors."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from summarizer.model.kernels.compiled import library

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


def attend_one(
    query: Float32[Tensor, "rows heads 1 d"],
    prompts: tuple[Float[Tensor, "s kv_heads p d"], Float[Tensor, "s kv_heads p d"]],
    answers: tuple[Float[Tensor, "rows kv_heads g d"], Float[Tensor, "rows kv_heads g d"]],
    prompt_lengths: Int64[Tensor, " s"],
    answer_lengths: Int64[Tensor, " s"],
) -> Float32[Tensor, "rows 1 heads d"]:
    """softmax(q k^T) v for queries that are scaled, over as many keys and values of each slot as its lengths say.

    prompts, answers: keys and values. rows: of all beams, slot by slot. Only where it `takes` what is kept.
    """
    loaded = library(SOURCE)
    assert loaded is not None, "takes() was not asked"
    slots, kv_heads, prompt_room, d = prompts[0].shape
    rows, heads = query.shape[:2]
    query = query.contiguous()
    mixed = torch.empty(rows, 1, heads, d)
    for kept in (*prompts, *answers):
        assert kept.is_contiguous(), "keys and values are kept in dense tensors"
    attention = _Attention(
        query=query.data_ptr(),
        prompts=(ctypes.c_void_p * 2)(*(kept.data_ptr() for kept in prompts)),
        answers=(ctypes.c_void_p * 2)(*(kept.data_ptr() for kept in answers)),
        prompt_lengths=prompt_lengths.data_ptr(),
        answer_lengths=answer_lengths.data_ptr(),
        mixed=mixed.data_ptr(),
        slots=slots,
        beams=rows // slots,
        kv_heads=kv_heads,
        shared=heads // kv_heads,
        d=d,
        prompt_room=prompt_room,
        answer_room=answers[0].shape[2],
        in_bf16=prompts[0].dtype == torch.bfloat16,
        threads=torch.get_num_threads(),
    )
    if loaded.attend_one(ctypes.byref(attention)):
        raise MemoryError("no memory for the scores of a token")
    return mixed
