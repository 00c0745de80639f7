"""How many greedy summaries llama.cpp writes as this project does, of a run that was exported for it in fp32.

    python experiments/other_runtimes/llama_cpp.py RUN --articles FILE.jsonl --rows 50 --out results.json

Needs `gguf` and `xllamacpp`, llama.cpp's own server as a wheel.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from urllib.request import Request, urlopen

import torch
import xllamacpp

from summarizer.exporting.export import export
from summarizer.exporting.request import ExportFlags, requested
from summarizer.generation.summarizer import Summarizer
from summarizer.runs.loaded_run import LoadedRun, load_runs
from summarizer.runs.trained_run import read_trained_run

BASE_ROWS = 10
"""Without the adapter the summaries are to be others: a few show that."""


@contextmanager
def served(model: Path, context: int, adapter: Path | None = None) -> Iterator[str]:
    """The address of llama.cpp's server over a file, with keys and values in fp32 too.

    Its flash attention is off: it casts keys and values to fp16, whatever they are kept in.
    """
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx, params.n_parallel, params.port, params.warmup = context, 1, 0, False
    params.cpuparams.n_threads = torch.get_num_threads()
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if adapter is not None:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = str(adapter), 1.0
        params.lora_adapters = [info]
    server = xllamacpp.Server(params)
    yield server.listening_address


def ask(url: str, path: str, **body: object) -> dict[str, object]:
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"{url}/{path}", json.dumps(body).encode(), headers)) as answer:
        read: dict[str, object] = json.load(answer)
    return read


def theirs(url: str, articles: list[str], loaded: LoadedRun) -> list[str]:
    """llama.cpp's summaries, by its own tokenizer: text and cut as the model card has them."""
    prompt, most = loaded.prompt, loaded.spec.generation.max_new_tokens
    before, after = (
        loaded.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        for ids in (prompt.before, prompt.after)
    )
    written = []
    for article in articles:
        text = prompt.article_lead + article.strip()
        ids = ask(url, "tokenize", content=text, parse_special=False)["tokens"]
        assert isinstance(ids, list)
        pieces = [*([before] if before else []), *ids[: prompt.room(most)], after]
        answer = ask(url, "completion", prompt=pieces, n_predict=most, temperature=0, cache_prompt=False)
        written.append(str(answer["content"]).strip())
    return written


def ours(loaded: LoadedRun, articles: list[str]) -> list[str]:
    summarizer = Summarizer(loaded, loaded.spec.generation, batch_size=1)
    prepared = [summarizer.prepare(article) for article in articles]
    texts = {}
    for number, (text,) in summarizer.summaries(prepared):  # in the order in which they are done
        texts[number] = text
        print(f"{len(texts)} of {len(articles)}", flush=True)
    return [texts[number] for number in range(len(articles))]


def exported(run: Path, name: str, folder: Path, *, with_base: bool = False) -> Path:
    flags = ExportFlags(
        run=run, format=name, dtype="fp32" if name == "gguf" or with_base else None,
        output=folder / name, with_base=with_base, device="cpu",
    )  # fmt: skip
    for line in export(requested(flags)):
        print(line, flush=True)
    return folder / name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--articles", type=Path, required=True, help="JSONL with a field `article`")
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--out", type=Path)
    typed = parser.parse_args()
    with typed.articles.open(encoding="utf-8") as file:
        articles = [json.loads(line)["article"] for line in islice(file, typed.rows)]
    torch.set_num_threads(1)  # one for each of the three that write at once
    with tempfile.TemporaryDirectory() as folder:
        merged = exported(typed.run, "gguf", Path(folder))
        adapter = exported(typed.run, "gguf-lora", Path(folder), with_base=True)
        loaded = load_runs([read_trained_run(typed.run)], device="cpu", precision="fp32")
        context = loaded.prompt.max_tokens + 8
        with (
            served(merged / "model.gguf", context) as by_model,
            served(adapter / "base.gguf", context, adapter / "adapter.gguf") as by_adapter,
            ThreadPoolExecutor() as pool,
        ):
            waiting = {
                "gguf": pool.submit(theirs, by_model, articles, loaded),
                "gguf-lora": pool.submit(theirs, by_adapter, articles, loaded),
            }
            own = ours(loaded, articles)
            written = {name: later.result() for name, later in waiting.items()}
        with served(adapter / "base.gguf", context) as url:
            written["base"] = theirs(url, articles[:BASE_ROWS], loaded)
    result: dict[str, object] = {"articles": len(own)}
    for name, texts in written.items():
        pairs = list(zip(own, texts, strict=False))
        others = [pair for pair in pairs if pair[0] != pair[1] and name != "base"]
        same = sum(a == b for a, b in pairs)
        result[name] = {"articles": len(pairs), "same": same, "others": others}
        print(name, result[name], flush=True)
    result["examples"] = own[:3]
    if typed.out is not None:
        typed.out.parent.mkdir(parents=True, exist_ok=True)
        typed.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
