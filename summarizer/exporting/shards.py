"""Tensors on disk as transformers reads them: safetensors, in shards with an index where one is not enough."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from summarizer.atomic import write_tensors
from summarizer.console.progress import bar
from summarizer.errors import ConfigError

SHARD_BYTES = 1 << 30
"""A shard is in memory while it is written, twice, as safetensors copies it; this bounds what that takes."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Piece:
    """A tensor that is made when its turn comes."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]
    kept: torch.dtype | None = None
    """A type that stays, of a tensor that holds no fractions; None: the file's."""

    def nbytes(self, dtype: torch.dtype) -> int:
        return math.prod(self.shape) * (self.kept or dtype).itemsize


def write_pieces(
    folder: Path, pieces: Sequence[Piece], dtype_name: str, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write each tensor as it is made, into `folder`.

    Not atomic by itself, so use it inside `atomic.new_folder`.
    Raises OSError where the disk refuses, ConfigError for a value that the type cannot hold.
    Source: https://huggingface.co/docs/transformers/big_models (the index file)
    """
    dtype = DTYPES[dtype_name]
    shards = _shards(pieces, dtype, shard_bytes)
    names = [
        "model.safetensors" if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        for i in range(1, len(shards) + 1)
    ]
    written, start_s = 0, time.monotonic()
    with bar(f"writing {dtype_name} weights", len(pieces)) as progress:
        for name, shard in zip(names, shards, strict=True):
            tensors = {}
            for piece in shard:
                tensors[piece.name] = _made(piece, dtype, dtype_name)
                written += tensors[piece.name].nbytes
                progress.advance()
                progress.note(f"{written / 1e6 / (time.monotonic() - start_s):.0f} MB/s")
            write_tensors(folder / name, tensors, {"format": "pt"})
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": written},
            "weight_map": {
                piece.name: name for name, shard in zip(names, shards, strict=True) for piece in shard
            },
        }
        text = json.dumps(index, indent=2) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _shards(pieces: Sequence[Piece], dtype: torch.dtype, shard_bytes: int) -> list[list[Piece]]:
    shards: list[list[Piece]] = [[]]
    size = 0
    for piece in pieces:
        if shards[-1] and size + piece.nbytes(dtype) > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(piece)
        size += piece.nbytes(dtype)
    return shards


def _made(piece: Piece, dtype: torch.dtype, dtype_name: str) -> Tensor:
    made = piece.make()
    assert tuple(made.shape) == piece.shape, piece.name
    tensor = made.to(piece.kept or dtype).cpu().contiguous()
    if piece.kept is None and not torch.isfinite(torch.stack(torch.aminmax(tensor))).all():
        raise ConfigError.single(
            "--dtype",
            f"{dtype_name} cannot hold {piece.name}, whose largest value is {float(made.abs().max()):.3g}; "
            "bf16 and fp32 reach to 3e38",
        )
    # A view of a tensor that lives on, such as the base's own, must not share its memory with the file's.
    return tensor
