"""This project's contender: the base from the cache of quantized bases, the adapter beside it, unmerged.

python answer_ours.py MODEL_FOLDER OUT FORMAT     fills the cache; OUT is made and stays empty
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from summarizer import __version__
from summarizer.adapters.attach import attach
from summarizer.adapters.lora import LoRA
from summarizer.adapters.peft_config import read_adapter_config
from summarizer.adapters.peft_format import load_adapter
from summarizer.config.plain import read_option
from summarizer.config.schema import GenerationConfig, ModelConfig, QuantizationConfig
from summarizer.generation.decoder import Decoder
from summarizer.models.load import Base, load_base
from summarizer.processes import join_processes, keep_freed_memory

READING = "_reading"
"""Behind a format: prompts are read in whole numbers, `--precision int8` of the commands."""


class Ours:
    waits_for_its_reader = True

    def __init__(self, request: dict[str, Any]) -> None:
        torch.set_num_threads(request["threads"])
        self.processes = join_processes(device=request["device"], precision="auto", wanted=None)
        keep_freed_memory()
        base = open_base(request["folder"], request["variant"], self.processes.device)
        self._int8_prefill = request["variant"].endswith(READING)
        adapter = Path(request["adapter"])
        config = read_adapter_config(adapter)
        lora = LoRA(
            dim=config["r"],
            alpha=float(config["lora_alpha"]),
            dropout=0.0,
            targets=["linear", "head", "embedding"],
            exclude=[],
            start_from=None,
        )
        self.adapted = attach(base.model, [lora], [0])
        load_adapter(self.adapted, 0, adapter)
        self.adapted.model.eval()
        self._end_id = request["end_id"]
        self.stored_bytes = base.stored_bytes
        self.read_bytes = base.stored_bytes - own_embedding_bytes(base.model)
        self.about = (
            f"summarizer {__version__}, torch {torch.__version__}, {self.processes.precision} products"
        )

    def answer(self, prompt: list[int], new_tokens: int) -> Iterator[int]:
        with self.processes.autocast():
            yield from (token for _, token in self._decoder(new_tokens, 1, 1).stream(prompt))

    def answer_all(
        self, prompts: list[list[int]], new_tokens: int, beams: int, batch: int
    ) -> list[list[int]]:
        with self.processes.autocast():
            answers = dict(self._decoder(new_tokens, beams, batch).answers(prompts))
        return [answers[index][0] for index in range(len(prompts))]

    def logits(self, prompt: list[int], given: list[int]) -> Iterator[np.ndarray]:
        with self.processes.autocast():
            decoding = self._decoder(len(given), 1, 1).decoding([prompt])
            for token in given:
                decoding.step()
                assert decoding.logits is not None
                yield decoding.logits[0, 0].float().numpy(force=True).copy()
                if decoding.unread is not None:
                    decoding.unread = torch.full_like(decoding.unread, token)

    def _decoder(self, new_tokens: int, beams: int, batch: int) -> Decoder:
        spec = GenerationConfig(
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            num_beams=beams,
            length_penalty=1.0,
            early_stopping=beams > 1,
            no_repeat_ngram_size=0,
            do_sample=False,
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            seed=0,
        )
        end_id = self._end_id
        return Decoder(
            self.adapted,
            spec,
            end_id=end_id,
            pad_id=end_id,
            batch_size=batch,
            int8_prefill=self._int8_prefill,
        )


def open_base(folder: str, variant: Any, device: torch.device) -> Base:
    model = ModelConfig(name_or_path=folder, revision=None, completion_token=None)
    # As `quantization=FORMAT` composes it: nf4 has embedding and head in int8.
    option = read_option("quantization", variant.removesuffix(READING))
    return load_base(model, QuantizationConfig.model_validate(option | {"cache": True}), device)


def own_embedding_bytes(model: Any) -> int:
    """Of an embedding that the head does not share: a token reads one row of it."""
    layers = (model.embedding, model.head)
    embedding, head = (layer.base.weight for layer in layers)  # both carry the adapter
    return 0 if embedding is head else int(embedding.stored_bytes)


if __name__ == "__main__":
    open_base(sys.argv[1], sys.argv[3], torch.device("cpu"))
    Path(sys.argv[2]).mkdir()
