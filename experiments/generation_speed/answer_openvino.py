"""OpenVINO on the CPU, with its own settings for latency: int8, or int4 with embedding and head in int8.

python answer_openvino.py MERGED_FOLDER OUT VARIANT     converts
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class OpenVino:
    def __init__(self, request: dict[str, Any], **more: Any) -> None:
        """more: settings of the CPU plugin in place of its own."""
        import openvino as ov

        graph = Path(request["folder"]) / "openvino_model.xml"
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": request["threads"], **more}
        compiled = ov.Core().compile_model(graph, "CPU", settings)
        self._end_id = request["end_id"]
        self._request = compiled.create_infer_request()
        self.stored_bytes = graph.with_suffix(".bin").stat().st_size
        self.read_bytes = self.stored_bytes - request["embedding_weights"]  # in int8
        told = {
            name: compiled.get_property(name)
            for name in ("INFERENCE_PRECISION_HINT", "DYNAMIC_QUANTIZATION_GROUP_SIZE", "KV_CACHE_PRECISION")
        }
        chosen = ", ".join(f"{name.lower()}={value}" for name, value in told.items())
        self.about = f"openvino {ov.__version__.split('-')[0]}, {chosen}"

    def answer(self, prompt: list[int], new_tokens: int) -> Iterator[int]:
        import numpy as np

        self._request.reset_state()
        tokens, past = np.array([prompt]), 0
        for _ in range(new_tokens):
            total = past + tokens.shape[1]
            out = self._request.infer(
                {
                    "input_ids": tokens,
                    "attention_mask": np.ones((1, total), dtype=np.int64),
                    "position_ids": np.arange(past, total)[None],
                    "beam_idx": np.zeros(1, dtype=np.int32),
                },
                share_inputs=True,
                share_outputs=True,
            )
            logits = out["logits"][0, -1].copy()
            logits[self._end_id] = -np.inf
            token = int(logits.argmax())
            yield token
            tokens, past = np.array([[token]]), total

    def answer_all(
        self, prompts: list[list[int]], new_tokens: int, beams: int, batch: int
    ) -> list[list[int]]:
        raise NotImplementedError("not connected: the runtime has no beam search")


if __name__ == "__main__":
    from openvino_graph import convert

    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
