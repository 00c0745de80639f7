"""A merged model as a folder that plain transformers loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import transformers
from torch import Tensor
from transformers import PretrainedConfig

from summarizer.config.schema import GenerationConfig
from summarizer.data.prompt import Prompt
from summarizer.exporting.merge import Merge
from summarizer.exporting.shards import DTYPES, SHARD_BYTES, Piece, write_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class MergedModel:
    """Everything that a folder of it holds."""

    merge: Merge
    config: PretrainedConfig
    """As the base's folder has it."""
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
        if head is None or merge.pair(head) is not None:
            return None
        if embedding is None:  # it keeps its precision, and the head was made from the same tensor
            return head if merge.layers[head].weight.format.name == "none" else None
        return head if merge.pair(embedding) is None else None


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
