"""llama.cpp on the CPU through its low-level binding: Q8_0 or Q4_0, made by its own quantizer.

python answer_llama_cpp.py MERGED_FOLDER OUT VARIANT     converts
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FILE = "model.gguf"
FILE_TYPES = {
    "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0",
    "f32": "LLAMA_FTYPE_ALL_F32",
}
"""llama.cpp's names of what its quantizer makes. By its defaults Q4_0 has the head in Q6_K, or in Q8_0 where rows
are no multiple of 256."""
EMBEDDING_BYTES = {"q8_0": 34 / 32, "q4_0": 18 / 32, "f32": 4}
"""Of a weight of the embedding: blocks of 32 with a step in fp16."""


class LlamaCpp:
    waits_for_its_reader = True

    def __init__(self, request: dict[str, Any]) -> None:
        self._end_id = request["end_id"]
        self._library = library()
        model = self._library.llama_model_load_from_file(
            str(Path(request["folder"]) / FILE).encode(), self._library.llama_model_default_params()
        )
        if not model:
            raise RuntimeError("llama.cpp does not load its file: see the log")
        self._context = self._new_context(model, longest_of(request), request["threads"])
        words = self._library.llama_model_get_vocab(model)
        self._vocabulary = int(self._library.llama_vocab_n_tokens(words))
        self.stored_bytes = int(self._library.llama_model_size(model))
        embedding_bytes = EMBEDDING_BYTES[request["variant"]] * request["embedding_weights"]
        self.read_bytes = self.stored_bytes - int(embedding_bytes)
        told = self._library.llama_print_system_info().decode()
        used = [part.strip() for part in told.replace(":", "|").split("|") if part.strip().endswith("= 1")]
        names = ", ".join(part.removesuffix("= 1").strip() for part in used)
        self.about = f"llama-cpp-python {self._library.version}, {names}"

    def _new_context(self, model: Any, longest: int, threads: int) -> Any:
        settings = self._library.llama_context_default_params()
        # A prompt is one call, and within it one graph.
        settings.n_ctx = settings.n_batch = settings.n_ubatch = -(-longest // 256) * 256
        settings.n_threads = settings.n_threads_batch = threads
        context = self._library.llama_init_from_model(model, settings)
        if not context:
            raise RuntimeError("llama.cpp has no room for its context: see the log")
        return context

    def answer(self, prompt: list[int], new_tokens: int) -> Iterator[int]:
        logits = self._begin(prompt)
        for made in range(new_tokens):
            logits[self._end_id] = -np.inf
            token = int(logits.argmax())
            yield token
            if made + 1 < new_tokens:
                logits = self._read([token])

    def answer_all(
        self, prompts: list[list[int]], new_tokens: int, beams: int, batch: int
    ) -> list[list[int]]:
        """One after the other: a prompt has work enough for all cores."""
        if beams > 1:
            raise NotImplementedError("not connected: llama.cpp has no beams")
        return [list(self.answer(prompt, new_tokens)) for prompt in prompts]

    def logits(self, prompt: list[int], given: list[int]) -> Iterator[np.ndarray]:
        yield self._begin(prompt)
        for token in given[:-1]:
            yield self._read([token])

    def _begin(self, prompt: Sequence[int]) -> np.ndarray:
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), False)
        return self._read(prompt)

    def _read(self, tokens: Sequence[int]) -> np.ndarray:
        """Read further tokens, and copy the logits behind the last one."""
        given = (ctypes.c_int32 * len(tokens))(*tokens)
        if code := self._library.llama_decode(
            self._context, self._library.llama_batch_get_one(given, len(tokens))
        ):
            raise RuntimeError(f"llama_decode says {code}")
        found = self._library.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(found, shape=(self._vocabulary,)).copy()


def longest_of(request: dict[str, Any]) -> int:
    """How many tokens a context must hold."""
    new_tokens = max(request["new_tokens"], request["kl_tokens"])
    texts = [(prompt, new_tokens) for prompt in request["prompts"]]
    texts += [(article, request["article_tokens"]) for article in request["articles"]]
    texts += [(prompt, 1) for batch in request["readings"] for prompt in batch]
    return max(len(prompt) + new_tokens for prompt, new_tokens in texts)


def library() -> Any:
    """llama.cpp's functions, with the version of the binding."""
    import llama_cpp

    llama_cpp.llama_cpp.version = llama_cpp.__version__
    llama_cpp.llama_backend_init()
    return llama_cpp.llama_cpp


def convert(folder: Path, out: Path, variant: str) -> None:
    """Write a model folder's file into `out`, through one of the checkpoint's own precision, which goes again.

    Raises ValueError for a model that none is written for, RuntimeError where the quantizer fails.
    """
    from llama_cpp_file import write_file
    from merged_checkpoint import Checkpoint

    out.mkdir(parents=True, exist_ok=True)
    dense = out / "dense.gguf"
    write_file(json.loads((folder / "config.json").read_text(encoding="utf-8")), Checkpoint(folder), dense)
    calls = library()
    settings = calls.llama_model_quantize_default_params()
    settings.ftype = getattr(calls, FILE_TYPES[variant])
    code = calls.llama_model_quantize(str(dense).encode(), str(out / FILE).encode(), ctypes.byref(settings))
    dense.unlink()
    if code:
        raise RuntimeError(f"llama_model_quantize says {code}")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
