"""`--format peft --for vllm`: what stands against vLLM taking an adapter, and how it serves a whole sweep's.

Source: vLLM 0.32: config/lora.py for ranks, lora/lora_model.py for the layers that an adapter may name,
lora/layers/logits_processor.py for the vocabulary, model_executor/models for which families take adapters
(SupportsLoRA), and which of them take any on embedding and head (embedding_modules).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from summarizer.adapters.peft_config import more_than_pairs, read_adapter_config
from summarizer.errors import ConfigError, Issue
from summarizer.exporting.card_sections import fenced
from summarizer.models.stored_base import is_stored_base
from summarizer.runs.trained_run import ADAPTER_FOLDER
from summarizer.sweeps.record import FILE_NAME as SWEEP
from summarizer.sweeps.record import read_sweep

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from summarizer.exporting.folders import SavedAdapter
    from summarizer.exporting.request import ExportRequest
    from summarizer.exporting.steps import Words

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` may be."""
DEFAULT_RANK = 16
MOST_VOCABULARY = 258_048
WITHOUT_ADAPTERS = ("gptj", "gpt2", "bloom", "gpt_bigcode")
"""Kinds of model that it computes, and takes no adapter for, by `model_type`."""
WITH_EMBEDDINGS = ("llama", "qwen3")
"""Kinds whose embedding and head an adapter may change; of all others, linear layers alone."""


def require_taken(
    request: ExportRequest, adapter: SavedAdapter, config: PretrainedConfig, base: Path
) -> None:
    """Raises ConfigError with everything that stands against vLLM taking the adapter.

    config: the base's.  base: the folder that it lies in.
    """
    if issues := list(_against(request, adapter, config, base)):
        raise ConfigError(issues)


def _against(
    request: ExportRequest, adapter: SavedAdapter, config: PretrainedConfig, base: Path
) -> Iterator[Issue]:
    kind = config.model_type
    merged = "--format merged makes a model that it may serve by itself"
    if kind in WITHOUT_ADAPTERS:
        yield Issue("--for", f"vllm takes no adapters for models of the kind {kind!r}; {merged}")
        return
    apart = [target for target in ("embedding", "head") if target in adapter.adapter.targets]
    if apart and kind not in WITH_EMBEDDINGS:
        yield Issue(
            "--for",
            f"vllm takes adapters of linear layers alone for models of the kind {kind!r}, and this one is on the "
            f"{' and the '.join(apart)} too; train with adapter.targets=[linear], or {merged}",
        )
    if apart and config.vocab_size > MOST_VOCABULARY:
        yield Issue(
            "--for", f"vllm takes adapters for up to {MOST_VOCABULARY:,} words, not {config.vocab_size:,}"
        )
    if more := more_than_pairs(adapter.config):
        yield Issue("--for", f"vllm adds low-rank pairs, and this adapter is {more}; {merged}")
        return
    if adapter.config.get("rank_pattern"):
        yield Issue("--for", f"vllm takes one rank for all layers, and this adapter has several; {merged}")
    if adapter.config["r"] > RANKS[-1]:
        yield Issue(
            "--for", f"vllm takes ranks up to {RANKS[-1]}, and this adapter's is {adapter.config['r']}"
        )
    if is_stored_base(base) and not request.with_base:
        yield Issue(
            "--for", "vllm does not read this base, which is kept in a form of this project; --with-base"
        )


def serving(request: ExportRequest, words: Words, base: str) -> str:
    """How vLLM serves the adapter, and the whole sweep's where it is of one, in Markdown.

    base: as vLLM's command takes it.
    """
    name = request.run.folder.resolve().name
    rank = request.run.spec.adapter.model_dump()["dim"]
    parts = [
        "With vLLM 0.32, in this folder:",
        fenced(_command(base, {name: "."}, rank), "bash"),
        fenced(_request(words, request, name), "bash"),
    ]
    siblings = _of_sweep(request.run.folder)
    if len(siblings) > 1:
        modules = {folder.name: f"{folder.name}/{ADAPTER_FOLDER}" for folder in siblings}
        ranks = [int(read_adapter_config(folder / ADAPTER_FOLDER)["r"]) for folder in siblings]
        parts += [
            "The adapters of its whole sweep over one base model, in the sweep's folder; a request names one:",
            fenced(_command(base, modules, max(ranks)), "bash"),
        ]
    return "\n\n".join(parts)


def _command(base: str, modules: dict[str, str], rank: int) -> str:
    limit = min(value for value in RANKS if value >= rank)
    more = [f"--max-lora-rank {limit}"] if limit > DEFAULT_RANK else []
    named = " ".join(_module(name, path) for name, path in modules.items())
    options = ["--enable-lora", f"--max-loras {len(modules)}", *more, f"--lora-modules {named}"]
    return f"vllm serve {shlex.quote(base)} {' '.join(options)}"


def _module(name: str, path: str) -> str:
    """One adapter as the flag takes it: NAME=PATH, or JSON where these hold what would part them."""
    plain = f"{name}={path}"
    whole = plain if plain.count("=") == 1 and "," not in plain else json.dumps({"name": name, "path": path})
    return shlex.quote(whole)


def _request(words: Words, request: ExportRequest, name: str) -> str:
    prompt, generation = words.prompt, request.run.spec.generation
    before, after = (
        str(words.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
        for ids in (prompt.before[words.added_start :], prompt.after)
    )
    body = {
        "model": name,
        "prompt": f"{before}{prompt.article_lead}The text of an article.{after}",
        "max_tokens": generation.max_new_tokens,
        "temperature": generation.temperature if generation.do_sample else 0,
        "stop_token_ids": [prompt.end_id],
    }
    url = "http://127.0.0.1:8000/v1/completions"
    text = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {url} -H 'Content-Type: application/json' \\\n  -d {text}"


def _of_sweep(run: Path) -> list[Path]:
    """The folders of a sweep's runs that have an adapter, this run's among them; none where it is of no sweep."""
    sweep = run.resolve().parent
    if not (sweep / SWEEP).is_file():
        return []
    folders = [sweep / str(record.folder) for record in read_sweep(sweep).runs]
    return [folder for folder in folders if (folder / ADAPTER_FOLDER).is_dir()]
