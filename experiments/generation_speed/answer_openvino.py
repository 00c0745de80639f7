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

import numpy as np
from merged_checkpoint import Checkpoint


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
        logits = self._running.begin([prompt])
        for made in range(new_tokens):
            logits[:, self._end_id] = -float("inf")
            token = int(logits.argmax())
            yield token
            if made + 1 < new_tokens:
                logits = self._running.go_on([token], [0])

    def answer_all(
        self, prompts: list[list[int]], new_tokens: int, beams: int, batch: int
    ) -> list[list[int]]:
        """Those of one length together, since its graph knows no padding; others one after the other."""
        if beams > 1:
            raise NotImplementedError("not connected: no beams")
        if len({len(prompt) for prompt in prompts}) > 1:
            return [list(self.answer(prompt, new_tokens)) for prompt in prompts]
        answers: list[list[int]] = []
        for start in range(0, len(prompts), batch):
            answers += self._together(prompts[start : start + batch], new_tokens)
        return answers

    def logits(self, prompt: list[int], given: list[int]) -> Iterator[np.ndarray]:
        yield self._running.begin([prompt])[0].numpy()
        for token in given[:-1]:
            yield self._running.go_on([token], [0])[0].numpy()

    def _together(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        logits = self._running.begin(prompts)
        answers: list[list[int]] = [[] for _ in prompts]
        while True:
            logits[:, self._end_id] = -float("inf")
            tokens = logits.argmax(dim=-1).tolist()
            for answer, token in zip(answers, tokens, strict=True):
                answer.append(token)
            if len(answers[0]) == new_tokens:
                return answers
            logits = self._running.go_on(tokens, range(len(prompts)))


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
