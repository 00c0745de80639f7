"""OpenVINO on the CPU, with its own settings for latency: int8, or int4 with embedding and head in int8.

python answer_openvino.py MERGED_FOLDER OUT VARIANT     converts

The graph is written beside this file (`openvino_models`), where tensors go by one at a time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


class Checkpoint:
    """Tensors of a model folder by name, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        files = {"model.safetensors"}
        if index.is_file():
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        self._opened = [safe_open(folder / name, framework="pt") for name in sorted(files)]
        self._of = {name: opened for opened in self._opened for name in opened.keys()}  # noqa: SIM118 - safe_open is no mapping

    def __call__(self, name: str) -> Tensor:
        tensor: Tensor = self._of[name].get_tensor(name)
        return tensor

    def __contains__(self, name: str) -> bool:
        return name in self._of


class OpenVino:
    waits_for_its_reader = True

    def __init__(self, request: dict[str, Any], settings: dict[str, Any] | None = None) -> None:
        """settings: of the CPU plugin in place of its own."""
        from openvino_models import GRAPH
        from openvino_running import Running, read_graph
        from openvino_runtime import ov

        graph = Path(request["folder"]) / GRAPH
        self._running = Running(read_graph(graph), threads=request["threads"], settings=settings)
        self._end_id = request["end_id"]
        self.stored_bytes = graph.with_suffix(".bin").stat().st_size
        self.read_bytes = self.stored_bytes - request["embedding_weights"]  # in int8
        told = {
            name: self._running.compiled.get_property(name)
            for name in ("INFERENCE_PRECISION_HINT", "DYNAMIC_QUANTIZATION_GROUP_SIZE", "KV_CACHE_PRECISION")
        }
        chosen = ", ".join(f"{name.lower()}={value}" for name, value in told.items())
        self.about = f"openvino {ov.__version__.split('-')[0]}, {chosen}"

    def answer(self, prompt: list[int], new_tokens: int) -> Iterator[int]:
        logits = self._running.begin(prompt)
        for made in range(new_tokens):
            logits[:, self._end_id] = -float("inf")
            token = int(logits.argmax())
            yield token
            if made + 1 < new_tokens:
                logits = self._running.go_on([token], [0])

    def answer_all(
        self, prompts: list[list[int]], new_tokens: int, beams: int, batch: int
    ) -> list[list[int]]:
        raise NotImplementedError("not connected: one article at a time is all that its graph does")


def convert(folder: Path, out: Path, variant: str) -> None:
    """Write the graph of a model folder into `out`. Raises ValueError for a model that none is written for."""
    from openvino_models import refusal, write_graph

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if reason := refusal(config):
        raise ValueError(reason)
    out.mkdir(parents=True, exist_ok=True)
    write_graph(config, Checkpoint(folder), out, variant)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
