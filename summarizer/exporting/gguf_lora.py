"""`--format gguf-lora`: a run's adapter as llama.cpp takes it beside a GGUF of its base.

Source: llama.cpp of October 2026: convert_lora_to_gguf.py for names and metadata, src/llama-adapter.cpp for shapes
and scale, `build_lora_mm` and `build_inp_embd` of src/llama-graph.cpp for where it is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import gguf
import torch
from torch import Tensor
from transformers import PretrainedConfig

from summarizer.adapters.peft_config import more_than_pairs
from summarizer.adapters.peft_format import PREFIX
from summarizer.errors import ConfigError
from summarizer.exporting.card_code import llama_cpp_code
from summarizer.exporting.folders import SavedAdapter
from summarizer.exporting.gguf import (
    PLAIN_ENDS,
    STORED,
    Naming,
    Stored,
    generation_limits,
    open_writer,
    require_known,
    write_file,
    write_model,
)
from summarizer.exporting.merge import Merge
from summarizer.exporting.request import ExportRequest, require_room
from summarizer.exporting.steps import (
    WITH_BASE,
    base_limits,
    merged_model,
    new_folder,
    opened,
    write_card,
)
from summarizer.models.source import model_folder

FILE = "adapter.gguf"
BASE = f"{WITH_BASE}.gguf"
OWN_HEAD = (
    f"`{BASE}` has a head of its own, a copy of the embedding: this adapter gives each its own, and llama.cpp "
    "would add what is the embedding's to a head that is one tensor with it."
)


def write(request: ExportRequest) -> list[str]:
    """Write the adapter, and beside it the base as it was trained on if that is asked for."""
    run, spec = request.run, request.run.spec
    folder = model_folder(spec.model, weights=False)
    config, words = require_known(request)
    adapter = SavedAdapter.read(run.adapter_folder, folder)
    if more := more_than_pairs(adapter.config):
        raise ConfigError.single(
            "--format",
            f"gguf-lora: llama.cpp adds low-rank pairs, and it is {more}; --format gguf merges",
        )
    apart = bool(config.tie_word_embeddings) and bool({"head", "embedding"} & set(adapter.adapter.targets))
    if apart and not request.with_base:
        raise _one_tensor(adapter.adapter.targets)
    limits = base_limits(request, folder)
    limits = [*limits, *([OWN_HEAD] if apart else []), PLAIN_ENDS, *generation_limits(request)]
    with new_folder(request.output) as scratch:
        _write_adapter(scratch / FILE, adapter, config, request.base)
        if request.with_base:
            loaded = opened(request)
            base = merged_model(loaded, Merge(loaded.adapted, None))
            require_room(request.output, base.nbytes(request.dtype))
            write_model(scratch / BASE, base, request, own_head=apart)
        files = f"-m {BASE if request.with_base else 'BASE.gguf'} --lora {FILE}"
        code = llama_cpp_code(words, spec.generation, files, request.dtype if request.with_base else None)
        write_card(scratch, request, words, code, [], limits)
    return limits


def _one_tensor(targets: Sequence[str]) -> ConfigError:
    """For an adapter that a GGUF of a base with one tensor for head and embedding cannot take."""
    adapted = " or the ".join(role for role in ("head", "embedding") if role in targets)
    return ConfigError.single(
        "--format",
        "gguf-lora: this base's head and embedding are one tensor, and llama.cpp cannot adapt the "
        f"{adapted} of such a base by itself. --with-base writes a GGUF of the base beside the adapter, whose head "
        "is its own; --format gguf merges; or train with adapter.targets=[linear]",
    )


def _write_adapter(path: Path, adapter: SavedAdapter, config: PretrainedConfig, base: str) -> None:
    """Write the adapter in fp32, as it was trained."""
    naming = Naming(config)
    writer = open_writer(naming.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # An alpha of 0 leaves the product as it is.
    alpha = 0.0 if _folds(adapter) else float(adapter.config["lora_alpha"])
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(f"{base}, adapted to summarize")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    stored = [_as_stored(name, tensor, adapter, naming) for name, tensor in adapter.tensors.items()]
    write_file(path, writer, [tensor for tensor in stored if tensor is not None])


def _folds(adapter: SavedAdapter) -> bool:
    """Whether each B is multiplied by its scale: llama.cpp knows one alpha over each pair's rank, and no other."""
    return bool(adapter.config.get("use_rslora") or adapter.config.get("alpha_pattern"))


def _as_stored(name: str, tensor: Tensor, adapter: SavedAdapter, naming: Naming) -> Stored | None:
    """One of PEFT's tensors under llama.cpp's name; None for a copy of the base's own.

    `lora_a` is multiplied first; of the embedding it is looked up, so that its rows are the vocabulary's.
    """
    layer, _, side = name.removeprefix(PREFIX).partition(".lora_")
    if not side:
        return None
    weight, first = f"{layer}.weight", side in ("A.weight", "embedding_A")
    if first and adapter.roles[layer] == "embedding":
        tensor = tensor.t()
    elif not first:
        tensor = naming.rows(weight, tensor)
        if _folds(adapter):
            tensor = tensor * adapter.adapter.for_layer(layer, adapter.roles[layer]).scale
    return Stored(
        f"{naming.name(weight)}.lora_{'a' if first else 'b'}",
        tuple(tensor.shape),
        STORED["fp32"][0],
        partial(tensor.to, torch.float32),
    )
