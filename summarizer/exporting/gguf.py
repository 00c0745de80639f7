"""`--format gguf`: a whole model for llama.cpp, the adapter added to its weights.

Source: the GGUF specification (ggml's docs/gguf.md), and llama.cpp of October 2026: conversion/base.py and llama.py
for names and the order of a head's rows, src/models for what each architecture computes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig

from summarizer.console.progress import bar
from summarizer.errors import ConfigError
from summarizer.exporting.card_code import llama_cpp_code
from summarizer.exporting.folders import DTYPES, MergedModel, Piece, made
from summarizer.exporting.gguf_vocabulary import WAY_ON, add_vocabulary, pre_tokenizer_name
from summarizer.exporting.measure import choose
from summarizer.exporting.merge import Merge
from summarizer.exporting.request import ExportRequest, require_room
from summarizer.exporting.steps import Words, merged_model, new_folder, opened, write_card
from summarizer.models.load import load_config
from summarizer.models.rotary_scaling import frequencies_of
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import load_tokenizer

FILE = "model.gguf"
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""llama.cpp's name for each family of models/llama.py that is written here, by `model_type`."""
STORED = {
    "fp32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "fp16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
PLAIN_ENDS = (
    "A summary ends at the run's end token and, as llama.cpp has it, at any other token that its list of ends of "
    "text names, such as `<|endoftext|>` and `<|im_end|>`."
)


def write(request: ExportRequest) -> list[str]:
    """Write the model whose answers are nearest to the unmerged one's, and say how near they are."""
    _, words = require_known(request)
    loaded = opened(request)
    require_room(request.output, merged_model(loaded, Merge(loaded.adapted, 0)).nbytes(request.dtype))
    choice = choose(loaded, request.weights, request.dtype)
    with new_folder(request.output) as scratch:
        write_model(scratch / FILE, merged_model(loaded, choice.merge), request)
        code = llama_cpp_code(words, loaded.spec.generation, f"-m {FILE}", request.dtype)
        write_card(scratch, request, words, code, choice.lines(), [PLAIN_ENDS, *generation_limits(request)])
    return choice.lines()


def require_known(request: ExportRequest) -> tuple[PretrainedConfig, Words]:
    """The base's config, and the run's tokenizer and prompt.

    Raises ConfigError for a family or a tokenizer that is not written here.
    """
    spec = request.run.spec
    folder = model_folder(spec.model, weights=False)
    config = load_config(folder)
    if reason := unsupported(config):
        raise ConfigError.single("--format", f"{reason}; {WAY_ON}")
    words = Words.of(spec, load_tokenizer(folder))
    pre_tokenizer_name(words.tokenizer)
    return config, words


def unsupported(config: PretrainedConfig) -> str | None:
    """Why a model of this config is not written; None where it is."""
    kind = config.model_type
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        return f"GGUF is written for models of the kinds {known}, and this one is {kind!r}"
    if config.rope_parameters.get("partial_rotary_factor") not in (None, 1, 1.0):
        return "llama.cpp turns whole heads of this kind of model, and this one's only in part"
    plain = config.rope_parameters.get("rope_type", "default") == "default"
    if not plain and (kind.startswith("qwen") or frequencies_of(config)[1] != 1.0):
        return f"rope_type {config.rope_parameters['rope_type']!r} of {kind!r} is not written here"
    return None


def generation_limits(request: ExportRequest) -> Iterator[str]:
    """What the run generates with and llama.cpp's server has not."""
    spec = request.run.spec.generation
    own = {
        "num_beams": (spec.num_beams, 1),
        "min_new_tokens": (spec.min_new_tokens, 0),
        "no_repeat_ngram_size": (spec.no_repeat_ngram_size, 0),
    }
    if more := [f"`{name}` {value}" for name, (value, off) in own.items() if value > off]:
        yield f"The run generates with {', '.join(more)}, which llama.cpp's server has not: its summaries differ."


# ---- names and rows ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Naming:
    """What llama.cpp calls a model's tensors, and in which order it wants the rows of queries and keys."""

    config: PretrainedConfig

    @property
    def architecture(self) -> gguf.MODEL_ARCH:
        return ARCHITECTURES[self.config.model_type]

    def name(self, tensor: str) -> str:
        """Of a tensor with its `.weight` or `.bias`. Raises ConfigError for one that llama.cpp does not know."""
        names = gguf.get_tensor_name_map(self.architecture, self.config.num_hidden_layers)
        found: str | None = names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ConfigError.single("--format", f"llama.cpp has no place for {tensor}; {WAY_ON}")
        return found

    def rows(self, tensor: str, values: Tensor) -> Tensor:
        """A weight, a bias or an adapter's output side, its rows in llama.cpp's order.

        Its Llama turns neighboring numbers of a head, transformers' the halves: row i of the first half and row i
        of the second become neighbors. Its Qwen turns halves too.
        """
        layer = tensor.rpartition(".")[0].rpartition(".")[2]
        if self.architecture != gguf.MODEL_ARCH.LLAMA or layer not in ("q_proj", "k_proj"):
            return values
        heads = self.config.num_attention_heads if layer == "q_proj" else self.config.num_key_value_heads
        ordered: Tensor = values.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        return ordered


# ---- the file ------------------------------------------------------------------------------------------------


def open_writer(architecture: gguf.MODEL_ARCH) -> gguf.GGUFWriter:
    """A writer that leaves the telling to the command: gguf logs the names of files that are renamed at the end."""
    logging.getLogger(gguf.__name__).setLevel(logging.WARNING)
    return gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[architecture])


def write_model(path: Path, model: MergedModel, request: ExportRequest, *, own_head: bool = False) -> None:
    """Write a whole model.

    own_head: write the head by itself even where it is the embedding, so that an adapter can change one of them.
    Raises ConfigError for a value that the type cannot hold.
    """
    config = model.config
    naming = Naming(config)
    writer = open_writer(naming.architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(f"{request.base}, adapted to summarize")
    add_shapes(writer, config)
    writer.add_file_type(STORED[request.dtype][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_vocabulary(writer, model.tokenizer, model.prompt, config.vocab_size)
    pieces = [*model.pieces(), *(_own_head(model) if own_head else ())]
    tensors = [_as_stored(piece, naming, request.dtype) for piece in pieces] + list(_rotary_factors(config))
    write_file(path, writer, tensors)


def add_shapes(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    """Write what a model of the Llama kinds is made of."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    window = getattr(config, "sliding_window", None) if _has_windows(config) else None
    # llama.cpp knows no windows in these families; within one the model is the same without.
    writer.add_context_length(min(config.max_position_embeddings, window or config.max_position_embeddings))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _has_windows(config: PretrainedConfig) -> bool:
    return config.model_type == "mistral" or "sliding_attention" in (
        getattr(config, "layer_types", None) or ()
    )


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: as it is called there, and made when its turn comes."""

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    make: Callable[[], Tensor]


def write_file(path: Path, writer: gguf.GGUFWriter, tensors: list[Stored]) -> None:
    """Write the header that a writer holds, and each tensor as it is made."""
    for tensor in tensors:
        size = 4 if tensor.kind == gguf.GGMLQuantizationType.F32 else 2
        writer.add_tensor_info(
            tensor.name,
            tensor.shape,
            np.dtype(np.float32),
            size * int(np.prod(tensor.shape)),
            raw_dtype=tensor.kind,
        )
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with bar("writing GGUF", len(tensors)) as progress:
        for tensor in tensors:
            values = tensor.make().contiguous()
            if values.dtype == torch.bfloat16:  # which numpy has not
                values = values.view(torch.int16)
            writer.write_tensor_data(values.numpy())
            progress.advance()
    writer.close()


def _as_stored(piece: Piece, naming: Naming, dtype_name: str) -> Stored:
    """Vectors (norms, biases) stay in fp32, as llama.cpp computes with them."""
    dtype_name = "fp32" if len(piece.shape) == 1 else dtype_name
    return Stored(
        naming.name(piece.name),
        piece.shape,
        STORED[dtype_name][0],
        lambda: naming.rows(piece.name, made(piece, DTYPES[dtype_name], dtype_name)),
    )


def _own_head(model: MergedModel) -> Iterator[Piece]:
    """The head as a tensor of its own, where the model's pieces have none."""
    (head,) = (name for name, role in model.merge.adapted.roles.items() if role == "head")
    if f"{head}.weight" not in {piece.name for piece in model.pieces()}:
        shape = model.merge.layers[head].weight.shape
        yield Piece(f"{head}.weight", (shape[0], shape[1]), lambda: model.merge.weight(head))


def _rotary_factors(config: PretrainedConfig) -> Iterator[Stored]:
    """What each pair's frequency is divided by, where positions are stretched for longer contexts."""
    frequencies, _ = frequencies_of(config)
    turning = 2 * len(frequencies)
    plain = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, turning, 2) / turning)
    factors = plain / frequencies
    if not torch.equal(factors, torch.ones_like(factors)):
        yield Stored("rope_freqs.weight", (len(factors),), STORED["fp32"][0], lambda: factors)
