"""The folders that are exported: an adapter that plain peft loads, and a merged model that transformers loads."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PretrainedConfig

from summarizer.adapters.attach import roles
from summarizer.adapters.peft_config import CONFIG_FILE, WEIGHTS_FILE, read_adapter_config
from summarizer.adapters.peft_format import adapter_of_folder
from summarizer.adapters.protocol import Adapter, Role
from summarizer.atomic import write_tensors
from summarizer.config.schema import GenerationConfig
from summarizer.console.progress import bar
from summarizer.data.prompt import Prompt
from summarizer.errors import ConfigError
from summarizer.exporting.merge import Merge
from summarizer.models.load import load_config
from summarizer.models.meta_model import build_meta_model
from summarizer.runs.trained_run import KEY

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHARD_BYTES = 1 << 30
"""A shard is in memory while it is written, twice, as safetensors copies it; this bounds what that takes."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class SavedAdapter:
    """A run's adapter as its folder has it, checked against the layers of its base."""

    config: dict[str, Any]
    """As PEFT keeps it."""
    adapter: Adapter
    roles: dict[str, Role]
    """Of the base's layers that can be adapted, by name."""
    tensors: dict[str, Tensor]
    """By PEFT's names."""

    @classmethod
    def read(cls, source: Path, base_folder: Path) -> SavedAdapter:
        """Read an adapter folder.

        base_folder: read for its config alone.
        Raises ConfigError for an adapter folder that is broken, of a kind that is not known, or of another base.
        """
        config = read_adapter_config(source, KEY)
        layers = roles(build_meta_model(load_config(base_folder), "none").model)
        adapter = adapter_of_folder(source, layers, KEY)
        try:
            tensors = load_file(source / WEIGHTS_FILE)
        except (OSError, SafetensorError) as error:
            raise ConfigError.single(
                KEY, f"{source / WEIGHTS_FILE} is missing or truncated: {error}"
            ) from error
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise ConfigError.single(KEY, f"{name} in {source} holds NaN or infinite values")
        if float(
            config.get("lora_alpha", 0.5)
        ).is_integer():  # as PEFT declares it, and other programs read it
            config["lora_alpha"] = int(config["lora_alpha"])
        return cls(config, adapter, layers, tensors)

    def write(self, folder: Path, base_name: str) -> None:
        """Write config and weights for plain peft.

        base_name: what the config calls the base.
        """
        config = self.config | {"base_model_name_or_path": base_name}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_tensors(folder / WEIGHTS_FILE, self.tensors, {"format": "pt"})


@dataclass(frozen=True)
class Piece:
    """A tensor that is made when its turn comes."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]
    kept: torch.dtype | None = None
    """A type that stays, of a tensor that holds no fractions; None: the file's."""

    def nbytes(self, dtype: torch.dtype) -> int:
        return math.prod(self.shape) * (self.kept or dtype).itemsize


def write_pieces(
    folder: Path, pieces: Sequence[Piece], dtype_name: str, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write each tensor as it is made, into `folder`.

    Not atomic by itself, so use it inside `atomic.new_folder`.
    Raises OSError where the disk refuses, ConfigError for a value that the type cannot hold.
    Source: https://huggingface.co/docs/transformers/big_models (the index file)
    """
    dtype = DTYPES[dtype_name]
    shards = _shards(pieces, dtype, shard_bytes)
    names = [
        "model.safetensors" if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        for i in range(1, len(shards) + 1)
    ]
    written, start_s = 0, time.monotonic()
    with bar(f"writing {dtype_name} weights", len(pieces)) as progress:
        for name, shard in zip(names, shards, strict=True):
            tensors = {}
            for piece in shard:
                tensors[piece.name] = made(piece, dtype, dtype_name)
                written += tensors[piece.name].nbytes
                progress.advance()
                progress.note(f"{written / 1e6 / (time.monotonic() - start_s):.0f} MB/s")
            write_tensors(folder / name, tensors, {"format": "pt"})
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": written},
            "weight_map": {
                piece.name: name for name, shard in zip(names, shards, strict=True) for piece in shard
            },
        }
        text = json.dumps(index, indent=2) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _shards(pieces: Sequence[Piece], dtype: torch.dtype, shard_bytes: int) -> list[list[Piece]]:
    shards: list[list[Piece]] = [[]]
    size = 0
    for piece in pieces:
        if shards[-1] and size + piece.nbytes(dtype) > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(piece)
        size += piece.nbytes(dtype)
    return shards


def made(piece: Piece, dtype: torch.dtype, dtype_name: str) -> Tensor:
    made = piece.make()
    assert tuple(made.shape) == piece.shape, piece.name
    tensor = made.to(piece.kept or dtype).cpu().contiguous()
    if piece.kept is None and not torch.isfinite(torch.stack(torch.aminmax(tensor))).all():
        raise ConfigError.single(
            "--dtype",
            f"{dtype_name} cannot hold {piece.name}, whose largest value is {float(made.abs().max()):.3g}; "
            "bf16 and fp32 reach to 3e38",
        )
    # A view of a tensor that lives on, such as the base's own, must not share its memory with the file's.
    return tensor


@dataclass(frozen=True)
class MergedModel:
    """A merged model with everything that a folder of it holds."""

    merge: Merge
    config: PretrainedConfig
    """The base model's config, as its folder has it."""
    tokenizer: PreTrainedTokenizerFast
    prompt: Prompt
    generation: transformers.GenerationConfig

    def pieces(self) -> list[Piece]:
        """Every tensor of the original model, a head that is still the embedding left out."""
        merge = self.merge
        shared = self._shared_head()
        found = [
            Piece(
                name, tuple(tensor.shape), tensor.detach, None if tensor.is_floating_point() else tensor.dtype
            )
            for name, tensor in merge.plain.items()
        ]
        for name, layer in merge.layers.items():
            if name == shared:
                continue
            transposed = layer.weight.transposed_in_checkpoint
            rows, columns = layer.weight.shape
            found.append(
                Piece(
                    f"{name}.weight",
                    (columns, rows) if transposed else (rows, columns),
                    _Made(merge, name, transposed),
                )
            )
        return found

    def nbytes(self, dtype_name: str) -> int:
        return sum(piece.nbytes(DTYPES[dtype_name]) for piece in self.pieces())

    def write(self, folder: Path, dtype_name: str, shard_bytes: int = SHARD_BYTES) -> None:
        """Write the whole folder but its card. Raises as `write_pieces` does."""
        config = self.config
        config.dtype = DTYPES[dtype_name]
        config.architectures = [self._architecture()]
        if self._shared_head() is None:
            for part in (config, config.get_text_config()):
                part.tie_word_embeddings = False
        config.save_pretrained(folder)
        generation_config(self.generation, self.prompt, self.tokenizer).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_pieces(folder, self.pieces(), dtype_name, shard_bytes)

    def _architecture(self) -> str:
        return self.merge.adapted.model.architecture

    def _shared_head(self) -> str | None:
        """The head's name where it is still the embedding, so that one tensor on disk serves both.

        A head whose adapter differs from the embedding's, or that was quantized by itself, is none any more.
        """
        if not getattr(self.config.get_text_config(), "tie_word_embeddings", False):
            return None
        merge = self.merge
        by_role = {role: name for name, role in merge.adapted.roles.items()}
        head, embedding = by_role.get("head"), by_role.get("embedding")
        if head is None or merge.is_adapted(head):
            return None
        if embedding is None:  # it keeps its precision, and the head was made from the same tensor
            return head if merge.layers[head].weight.format.name == "none" else None
        shared = merge.layers[head].weight is merge.layers[embedding].weight
        return head if shared and not merge.is_adapted(embedding) else None


@dataclass(frozen=True)
class _Made:
    merge: Merge
    name: str
    transposed: bool

    def __call__(self) -> Tensor:
        weight = self.merge.weight(self.name)
        return weight.t() if self.transposed else weight


def generation_config(
    spec: GenerationConfig, prompt: Prompt, tokenizer: PreTrainedTokenizerFast
) -> transformers.GenerationConfig:
    """A run's generation settings as transformers keeps them in a folder."""
    more: dict[str, float] = {}
    if spec.num_beams > 1:
        more |= {"length_penalty": spec.length_penalty, "early_stopping": spec.early_stopping}
    if spec.do_sample:
        more |= {"temperature": spec.temperature, "top_p": spec.top_p, "top_k": spec.top_k}
    return transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=prompt.end_id,
        pad_token_id=prompt.pad_id,
        max_new_tokens=spec.max_new_tokens,
        min_new_tokens=spec.min_new_tokens,
        num_beams=spec.num_beams,
        no_repeat_ngram_size=spec.no_repeat_ngram_size,
        do_sample=spec.do_sample,
        **more,
    )
