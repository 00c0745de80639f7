"""CTranslate2, by its own converter of transformers' models: int8 weights with one scale a row.

python answer_ctranslate2.py MERGED_FOLDER OUT     converts
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

COMPUTE_TYPES = {"int8": "int8", "fp32": "float32"}
"""By variant: how what is stored in int8 is multiplied."""


class CTranslate2:
    waits_for_its_reader = False  # its own thread goes on

    def __init__(self, request: dict[str, Any]) -> None:
        import ctranslate2

        folder = Path(request["folder"])
        self._end = [request["end_id"]]  # which min_length keeps out
        self._generator = ctranslate2.Generator(
            str(folder),
            device=request["device"],
            compute_type=COMPUTE_TYPES[request["variant"]],
            inter_threads=1,
            intra_threads=request["threads"],
        )
        self.stored_bytes = (folder / "model.bin").stat().st_size
        self.read_bytes = self.stored_bytes - request["embedding_weights"]  # in int8
        used = self._generator.compute_type
        self.about = f"ctranslate2 {ctranslate2.__version__}, {used}, {request['threads']} threads"

    def answer(self, prompt: list[int], new_tokens: int) -> Iterator[int]:
        steps = self._generator.generate_tokens(
            as_words(prompt),
            max_length=new_tokens,
            min_length=new_tokens,
            end_token=self._end,
            sampling_topk=1,
        )
        for step in steps:
            yield step.token_id

    def answer_all(
        self, prompts: list[list[int]], new_tokens: int, beams: int, batch: int
    ) -> list[list[int]]:
        results = self._generator.generate_batch(
            [as_words(prompt) for prompt in prompts],
            max_batch_size=batch,  # it sorts by length itself
            beam_size=beams,
            max_length=new_tokens,
            min_length=new_tokens,
            end_token=self._end,
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0] for result in results]

    def logits(self, prompt: list[int], given: list[int]) -> Iterator[np.ndarray]:
        """Read all at once: its decoding gives no logits."""
        read = self._generator.forward_batch([as_words(prompt + given[:-1])])
        yield from np.array(read)[0, len(prompt) - 1 :]


def as_words(ids: list[int]) -> list[str]:
    """CTranslate2 takes tokens by their names; the converted model's are numbers."""
    return [str(token) for token in ids]


def convert(merged: Path, out: Path) -> None:
    """Write CTranslate2's own folder, with numbers for a vocabulary, since random weights have no words."""
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(merged)
    vocabulary = {str(token): token for token in range(config.vocab_size)}

    class Numbered(TransformersConverter):
        def load_tokenizer(self, *_: Any, **__: Any) -> Any:
            return SimpleNamespace(
                get_vocab=lambda: vocabulary, bos_token="0", eos_token="0", unk_token="0", chat_template=None
            )

    Numbered(str(merged), low_cpu_mem_usage=True).convert(str(out), quantization="int8", force=True)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
