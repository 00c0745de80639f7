"""What reading takes of one thread's processor time: for a machine that others keep busy, where clocks say little.

python processor_time.py MATERIALS ENGINE:VARIANT [128 512 1024 8x128 ...]

MATERIALS is what measure.py --only-prepare made, outputs/generation_speed/MODEL; run it with the Python that has
the engine, from the repository's root. Prompts are random tokens, their first tokens are asked for; the minimum of
up to five, in milliseconds.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from answering import ENGINES

READINGS = 5
READING_S = 4.0


def main() -> None:
    folder, contender, *sizes = sys.argv[1:]
    engine, variant = contender.split(":")
    made = Path(folder).resolve()
    os.environ["SUMMARIZER_CACHE"] = str(made / "cache")
    if engine == "ours":
        from summarizer.runs.launch import prepare_process

        prepare_process()  # as the commands do, before torch is imported
    drawn = np.random.default_rng(0)
    batches = {size: prompts_of(size, drawn) for size in sizes or ["128", "512", "1024", "8x128"]}
    base = (
        made / "base"
        if (made / "base").is_dir()
        else json.loads((made / "materials.json").read_text())["model"]
    )
    opened = {"ours": base, "transformers": made / "merged"}.get(engine, made / f"{engine}-{variant}")
    file, name = ENGINES[engine]
    side = getattr(importlib.import_module(file), name)(
        {
            "variant": variant,
            "folder": str(opened),
            "adapter": str(made / "adapter"),
            "device": "cpu",
            "threads": 1,
            "end_id": 0,
            "embedding_weights": 0,
            "prompts": [],
            "articles": [],
            "readings": list(batches.values()),
            "new_tokens": 1,
            "kl_tokens": 0,
        }
    )
    for size, prompts in batches.items():
        side.answer_all(prompts[:1], 1, 1, 1)  # not timed
        seconds: list[float] = []
        while len(seconds) < READINGS and sum(seconds) < READING_S:
            begun_s = time.process_time()
            side.answer_all(prompts, 1, 1, len(prompts))
            seconds.append(time.process_time() - begun_s)
        print(f"{contender} {size}: {1e3 * min(seconds):.0f} ms", flush=True)


def prompts_of(size: str, drawn: np.random.Generator) -> list[list[int]]:
    """`TOKENS`, or `ARTICLESxTOKENS`."""
    count, _, tokens = size.rpartition("x")
    ids: list[list[int]] = drawn.integers(10, 40_000, (int(count or 1), int(tokens))).tolist()
    return ids


if __name__ == "__main__":
    main()
