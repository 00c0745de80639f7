"""A graph on OpenVINO's CPU plugin: tokens in, the next one's logits out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from openvino_runtime import ov
from torch import Tensor

EXACT: dict[str, Any] = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "auto": {},
    "fp32": EXACT,
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
}
"""By --precision. auto is the plugin's own choice for the processor: bf16 where it has that, activations, keys and
values in 8 bits."""


def read_graph(graph: Path) -> Any:
    """Raises RuntimeError where the file, or its weights beside it, are broken."""
    return ov.Core().read_model(graph)


class Running:
    """Texts of one length, or the beams of one text, at a time."""

    def __init__(self, model: Any, *, threads: int, settings: dict[str, Any] | None = None) -> None:
        """settings: of the plugin, in place of its own."""
        asked = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, **(settings or {})}
        self.compiled = ov.Core().compile_model(model, "CPU", asked)
        self._request = self.compiled.create_infer_request()
        self._past = 0

    def begin(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "b v"]:
        """Forget what was read, and read prompts of one length."""
        self._request.reset_state()
        self._past = 0
        return self._read(np.array(prompts, dtype=np.int64), np.arange(len(prompts), dtype=np.int32))

    def go_on(self, tokens: Sequence[int], sources: Sequence[int]) -> Float[Tensor, "b v"]:
        """Read one token more in each beam. sources: the beam of the step before that each one goes on from."""
        return self._read(np.array(tokens, dtype=np.int64)[:, None], np.array(sources, dtype=np.int32))

    def _read(self, ids: np.ndarray, sources: np.ndarray) -> Tensor:
        rows, count = ids.shape
        total = self._past + count
        out = self._request.infer(
            {
                "input_ids": ids,
                "attention_mask": np.ones((rows, total), dtype=np.int64),
                "position_ids": np.tile(np.arange(self._past, total), (rows, 1)),
                "beam_idx": sources,
            },
            share_inputs=True,
            share_outputs=True,
        )
        self._past = total
        return torch.from_numpy(
            out["logits"][:, -1].copy()
        )  # what is shared is written over by the next step
