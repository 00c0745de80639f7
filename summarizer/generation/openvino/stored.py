"""Weights as OpenVINO's graphs keep them: int8 row by row, or int4 in groups, on disk as soon as they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from summarizer.generation.openvino.runtime import ops, ov
from summarizer.model.formats import int8

GROUPS = (128, 64, 32, 16)
"""How many weights of a row share an int4 scale: the first that divides the row. Source: 128 is NNCF's default."""
ROWS_AT_ONCE = 1024
"""Of a matrix in fp32: bounds what rounding the largest one takes."""

Node = Any  # openvino's own type hints say little more


def quantise_groups(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Symmetric int4: the number of each group that is furthest from zero becomes -8.

    weight: (d_out, d_in), d_in a multiple of `group`. Returns (d_out, groups, group) in -8 .. 7, one to a byte, and
    (d_out, groups, 1) in fp32. Source: NNCF's INT4_SYM, without data.
    """
    stored, scales = [], []
    for rows in torch.split(weight, ROWS_AT_ONCE):
        grouped = rows.float().reshape(rows.shape[0], -1, group)
        furthest = grouped.gather(2, grouped.abs().argmax(dim=2, keepdim=True))
        scale = furthest / -8
        scale[scale == 0] = 1
        stored.append((grouped / scale).round_().clamp_(-8, 7).to(torch.int8))
        scales.append(scale)
    return torch.cat(stored), torch.cat(scales)


def packed(nibbles: Tensor) -> np.ndarray:
    """Two signed 4-bit numbers to a byte, the first one low."""
    flat = nibbles.numpy().reshape(-1, 2).view(np.uint8) & 0xF
    joined: np.ndarray = flat[:, 0] | flat[:, 1] << 4
    return joined


class Shelf:
    """Large constants in files below `folder`, mapped from there, so that no two are in memory at a time.

    The files are needed until the graph is saved.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[Any] = []
        """Neither mapping nor tensor is kept alive by a constant that shares its memory."""

    def constant(self, values: np.ndarray) -> Node:
        tensor = ov.Tensor(self._mapped(values), shared_memory=True)
        return self._constant(tensor)

    def int4(self, nibbles: Tensor) -> Node:
        tensor = ov.Tensor(self._mapped(packed(nibbles)), ov.Shape(list(nibbles.shape)), ov.Type.i4)
        return self._constant(tensor)

    def rows_in_int8(self, weight: Tensor) -> tuple[Node, np.ndarray]:
        """Row-wise absmax, as this project's own int8 is: (d_out, d_in), and steps (d_out, 1)."""
        q, scale = int8.quantise(weight)
        return self.constant(q.numpy()), scale.numpy()

    def dense(self, weight: Tensor, *, int4: bool) -> Node:
        """A matrix (d_out, d_in) as the product of what is stored and its steps, which the plugin fuses.

        int4: except where no whole groups make up a row.
        """
        group = next((size for size in GROUPS if weight.shape[1] % size == 0), None)
        if group is None or not int4:
            q, steps = self.rows_in_int8(weight)
            return ops.multiply(ops.convert(q, "f32"), ops.constant(steps))
        nibbles, scale = quantise_groups(weight, group)
        grouped = ops.multiply(ops.convert(self.int4(nibbles), "f32"), ops.constant(scale.numpy()))
        shape = ops.constant(np.asarray(weight.shape, dtype=np.int64))
        return ops.reshape(grouped, shape, special_zero=False)

    def _mapped(self, values: np.ndarray) -> np.ndarray:
        file = self._folder / f"constant-{len(self._held)}.bin"
        mapped = np.memmap(file, values.dtype, "w+", shape=values.shape)
        mapped[:] = values
        mapped.flush()
        return mapped

    def _constant(self, tensor: Node) -> Node:
        self._held.append(tensor)
        return ops.constant(tensor, shared_memory=True)
