"""One contender in a process of its own: it loads, answers, says how long that took, and ends.

A request comes in on standard input as JSON, the answer goes out as JSON on standard output. This file and those of
the peers need little of the project: a peer may live in another environment.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from memory_rate import MemoryReader, gpu_rate
from nearness import nearness, write_reference

ENGINES = {
    "ours": ("answer_ours", "Ours"),
    "transformers": ("answer_transformers", "Transformers"),
    "ctranslate2": ("answer_ctranslate2", "CTranslate2"),
    "openvino": ("answer_openvino", "OpenVino"),
    "llama_cpp": ("answer_llama_cpp", "LlamaCpp"),
}
"""File and class of each engine; a class is built with the request and is a Side."""
WARM_UP_TOKENS = 16
"""Of the prompt whose answer is not timed: first calls choose kernels, allocate, and read weights from the disk."""
READING_S = 2.0
"""How long reading a batch is repeated, once at least and READINGS times at most."""
READINGS = 5


class Side(Protocol):
    """An engine that has loaded its model, with the adapter in it."""

    stored_bytes: int
    """Of all weights as the engine stores them."""
    read_bytes: int
    """Of those that every new token needs: an embedding of its own is not among them."""
    about: str
    """Version and settings, for a person."""
    waits_for_its_reader: bool
    """Whether nothing is computed between a token that `answer` gave and the question for the next one."""

    def answer(self, prompt: list[int], new_tokens: int) -> Iterator[int]:
        """Greedy, exactly so many tokens, each as soon as it is known; never the request's end_id."""
        ...

    def answer_all(
        self, prompts: list[list[int]], new_tokens: int, beams: int, batch: int
    ) -> list[list[int]]:
        """The best beam's exactly `new_tokens` tokens for each prompt, however that is done fastest."""
        ...

    def logits(self, prompt: list[int], given: list[int]) -> Iterator[np.ndarray]:
        """Those behind the prompt, and behind each given token but the last: as many as are given."""
        ...


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    request = json.loads(sys.stdin.read())
    answer: dict[str, Any]
    try:
        answer = measure(request)
    except Exception as error:
        traceback.print_exc()
        answer = {"problem": describe(error)}
    out.write(json.dumps(answer) + "\n")
    out.close()
    sys.stderr.flush()
    os._exit(0)  # engines' threads may not end by themselves


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Times in seconds. request: of speed_contenders.request."""
    file, name = ENGINES[request["engine"]]
    if request["engine"] == "ours":
        from summarizer.runs.launch import prepare_process

        prepare_process()  # as the commands do, before torch is imported
    side: Side = getattr(importlib.import_module(file), name)(request)
    load_s = time.time() - request["started_s"]
    prompts, new_tokens = request["prompts"], request["new_tokens"]
    begun_s = time.perf_counter()
    list(side.answer(prompts[0][:WARM_UP_TOKENS], 2))
    warm_up_s = time.perf_counter() - begun_s
    read_memory = memory_rate_of(side, request)
    first_token_s, token_s, memory_rates, tokens = [], [], [], []
    for prompt in prompts:
        answer, seconds, rates = [], [], []
        steps, begun_s = side.answer(prompt, new_tokens), time.perf_counter()
        for token in steps:
            seconds.append(time.perf_counter() - begun_s)
            answer.append(token)
            if read_memory is not None:
                rates.append(read_memory())
            begun_s = time.perf_counter()
        if len(answer) != new_tokens:
            raise RuntimeError(f"gave {len(answer)} tokens, not {new_tokens}")
        first_token_s.append(seconds[0])
        token_s += seconds[1:]
        memory_rates += [max(pair) for pair in pairwise(rates)]  # before a token and after it
        tokens.append(answer)
    return {
        "load_s": load_s,
        "warm_up_s": warm_up_s,
        "first_token_s": first_token_s,
        "token_s": token_s,
        "memory_rates": memory_rates,
        "tokens": tokens,
        "stored_bytes": side.stored_bytes,
        "read_bytes": side.read_bytes,
        "about": side.about,
        **articles(side, request),
        **memory(request["device"]),
        **readings(side, request),
        **compared(side, request),
    }


def memory_rate_of(side: Side, request: dict[str, Any]) -> Callable[[], float] | None:
    """What tells memory's rate, in bytes/s, between two tokens; None beside an engine that goes on meanwhile.

    A GPU's is its own: it is measured once. A virtual machine's changes within seconds, by what its neighbors do.
    """
    if request["device"] == "cuda":
        rate = gpu_rate()
        return lambda: rate
    return MemoryReader(request["threads"]).rate if side.waits_for_its_reader else None


def articles(side: Side, request: dict[str, Any]) -> dict[str, Any]:
    """How long a split takes. Nothing where none is asked for."""
    prompts = request["articles"]
    if not prompts:
        return {}
    beams, batch, new_tokens = request["beams"], request["batch"], request["article_tokens"]
    try:
        side.answer_all(prompts[:batch], 2, beams, batch)  # not timed
        begun_s = time.perf_counter()
        answers = side.answer_all(prompts, new_tokens, beams, batch)
    except NotImplementedError as error:
        return {"articles_problem": str(error)}
    seconds = time.perf_counter() - begun_s
    if [len(answer) for answer in answers] != [new_tokens] * len(prompts):
        raise RuntimeError(f"gave other numbers of tokens than {new_tokens}")
    return {"articles_per_s": len(prompts) / seconds}


def readings(side: Side, request: dict[str, Any]) -> dict[str, Any]:
    """Seconds until every prompt of a batch has its first token, of each repetition, for each batch asked for."""
    found = []
    for prompts in request["readings"]:
        seconds: list[float] = []
        while not seconds or (sum(seconds) < READING_S and len(seconds) < READINGS):
            begun_s = time.perf_counter()
            side.answer_all(prompts, 1, 1, len(prompts))
            seconds.append(time.perf_counter() - begun_s)
        found.append({"articles": len(prompts), "tokens": len(prompts[0]), "seconds": seconds})
    return {"readings": found}


def compared(side: Side, request: dict[str, Any]) -> dict[str, Any]:
    """How near to fp32 the engine is. Nothing where that is not asked for; the reference itself is written."""
    if not request["reference"]:
        return {}
    file = Path(request["reference"])
    if not file.is_file():
        write_reference(side, request["prompts"], request["kl_tokens"], file)
    return nearness(side, request["prompts"], file)


def memory(device: str) -> dict[str, int]:
    """Of this process: the most that was resident at once, mapped files included, and what it holds of its own now.

    On a GPU also the most that torch held at once.
    """
    found = {
        "resident_bytes": status_bytes_of("self", "VmHWM"),
        "anonymous_bytes": status_bytes_of("self", "RssAnon"),
    }
    if device == "cuda":
        import torch

        found["gpu_bytes"] = torch.cuda.max_memory_allocated()
    return found


def status_bytes_of(process: int | str, field: str) -> int:
    """A line of proc(5)'s status; 0 for a process that has ended, and on a system without it."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, flags=re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def describe(error: Exception) -> str:
    """One line for the table."""
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return "out of memory"
    return f"{type(error).__name__}: {text[:300]}"


if __name__ == "__main__":
    main()
