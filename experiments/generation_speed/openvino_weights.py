"""Weights as OpenVINO's graphs keep them: int8 or int4 in groups, on disk as soon as they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from openvino_runtime import ops, ov
from torch import Tensor

from summarizer.quantization import int8

GROUPS = {"int8": (64, 32, 16), "int4": (128, 64, 32, 16)}
"""How many weights of a row share a step: the first that divides the row. Source: 128 is NNCF's default for int4.

With a step a row, rounding merged weights to int8 again cost SmolLM2-135M 0.34 nats of KL per summary token, whose
rows have outliers; with one for 64 it cost 0.006 (three articles of cnn_dailymail, products in fp32).
"""
ROWS_AT_ONCE = 1024
"""Of a matrix in fp32: bounds what rounding the largest one takes."""

Bits = Literal["int8", "int4"]
Node = Any  # openvino's own type hints say little more


def quantize_groups(weight: Tensor, group: int, bits: Bits) -> tuple[Tensor, Tensor]:
    """The nearest points of each group's grid, and the grid's step, which is 1 for a group of zeros.

    weight: (d_out, d_in), d_in a multiple of `group`. Returns (d_out, groups, group), one number to a byte, and
    (d_out, groups, 1) in fp32. int8 is symmetric in -127 .. 127; in int4, -8 .. 7, the number that is furthest from
    zero becomes -8. Source: NNCF's INT8_SYM and INT4_SYM, without data.
    """
    stored, steps = [], []
    for rows in torch.split(weight, ROWS_AT_ONCE):
        grouped = rows.float().reshape(rows.shape[0], -1, group)
        furthest = grouped.gather(2, grouped.abs().argmax(dim=2, keepdim=True))
        step = furthest.abs() / 127 if bits == "int8" else furthest / -8
        step[step == 0] = 1
        low, high = (-127, 127) if bits == "int8" else (-8, 7)
        stored.append((grouped / step).round_().clamp_(low, high).to(torch.int8))
        steps.append(step)
    return torch.cat(stored), torch.cat(steps)


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
        q, scale = int8.quantize(weight)
        return self.constant(q.numpy()), scale.numpy()

    def dense(self, weight: Tensor, bits: Bits | None) -> Node:
        """A matrix (d_out, d_in) as the product of what is stored and its steps, which the plugin fuses.

        bits: in groups; int8 with a step a row where it is None, or no whole groups make up a row.
        """
        group = next((size for size in GROUPS[bits] if weight.shape[1] % size == 0), None) if bits else None
        if bits is None or group is None:
            q, steps = self.rows_in_int8(weight)
            return ops.multiply(ops.convert(q, "f32"), ops.constant(steps))
        stored, scale = quantize_groups(weight, group, bits)
        node = self.int4(stored) if bits == "int4" else self.constant(stored.numpy())
        grouped = ops.multiply(ops.convert(node, "f32"), ops.constant(scale.numpy()))
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
