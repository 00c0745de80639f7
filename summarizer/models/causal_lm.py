"""What training, evaluation and generation ask of a model, whether it is one of ours or one of transformers'."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig

from summarizer.data.batches import IGNORED_LABEL, Batch
from summarizer.models.attention import KeyValueCache, RotaryEmbedding, Sequences
from summarizer.ops.loss import token_losses
from summarizer.ops.rotary import RotaryTable


class CausalLM(ABC):
    """A causal language model, from token ids to the logits of the next tokens."""

    config: PretrainedConfig
    not_adapted: Mapping[str, str] = MappingProxyType({})
    """Frozen layers that no adapter is to stand beside, by name, and why."""
    blocks_are_alike = False
    """Whether the last block computes for all tokens, as the others do: compiled, they then share their code."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """Its layers, under the names that the checkpoint gives them."""

    @property
    @abstractmethod
    def embedding(self) -> nn.Module:
        """From token ids to hidden states."""

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """From hidden states to logits."""

    @property
    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """Its blocks in the order of the data: what is compiled, and recomputed to save memory. May be empty."""

    @property
    @abstractmethod
    def architecture(self) -> str:
        """The class of transformers that computes the same, as checkpoints name it."""

    def is_at_positions(self, name: str) -> bool:
        """Whether `summary_logits` gives the layer of that name, like the head, a batch's positions alone."""
        return False

    @abstractmethod
    def packs(self, max_tokens: int) -> bool:
        """Whether sequences of up to max_tokens each, one behind the other in a row, give what each gives alone."""

    @abstractmethod
    def summary_logits(self, batch: Batch) -> Float[Tensor, "n m v"]:
        """The logits at the batch's positions, which is all that a loss is over."""

    @abstractmethod
    def logits(self, ids: Int[Tensor, "rows t"]) -> Float[Tensor, "rows t v"]:
        """The logits behind every token, each row a sequence of its own."""


@dataclass(frozen=True)
class AttentionShape:
    """What a model keeps of each token, and how wide its attention is."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> AttentionShape | None:
        """As a config says; None for a model without attention heads, such as Mamba."""
        text = config.get_text_config(decoder=True)
        layers = getattr(text, "num_hidden_layers", None)
        heads = getattr(text, "num_attention_heads", None)
        if type(layers) is not int or type(heads) is not int or heads < 1:
            return None
        kv_heads = getattr(text, "num_key_value_heads", None)
        head_dim = getattr(text, "head_dim", None)
        width = getattr(text, "hidden_size", None)
        return cls(
            layers=layers,
            heads=heads,
            kv_heads=kv_heads if type(kv_heads) is int and kv_heads > 0 else heads,
            head_dim=head_dim if type(head_dim) is int else (width // heads if type(width) is int else 1),
        )


def summary_nll(model: CausalLM, batch: Batch) -> Float[Tensor, " n"]:
    """Negative log-likelihood, in nats, of each trial's summaries, summed over their tokens."""
    return token_nll(model, batch).sum(dim=1)


def token_nll(model: CausalLM, batch: Batch) -> Float[Tensor, "n m"]:
    """Each summary token's negative log-likelihood, laid out as `batch.targets`; 0 behind a trial's last one."""
    logits = model.summary_logits(batch)
    losses = token_losses(logits.flatten(0, 1), batch.targets.flatten(), IGNORED_LABEL)
    return losses.reshape(batch.targets.shape)


BEFORE_ATTENTION = (".q_proj", ".k_proj", ".v_proj")
"""Layers of a block that see every token, by the end of their names."""


class PackedModel(nn.Module, CausalLM):
    """A model of our own: one forward for training, prefill and decode, over packed sequences.

    A family is one file: a class that makes the modules, named as the checkpoint's tensors are, and says which of
    them is what.
    """

    prefix: ClassVar[str]
    """Of the names of all modules but the head, which some checkpoints leave out."""
    rotary: RotaryEmbedding
    """The angles of positions."""
    lm_head: nn.Module
    """From hidden states to logits, as every checkpoint names it."""

    @property
    def head(self) -> nn.Module:
        return self.lm_head

    @property
    @abstractmethod
    def final_norm(self) -> nn.Module:
        """Between the last block and the head."""

    @property
    def module(self) -> nn.Module:
        return self

    def is_at_positions(self, name: str) -> bool:
        around = accumulate(name.split("."), "{}.{}".format)
        in_last = any(self.get_submodule(path) is self.blocks[-1] for path in around)
        return in_last and not self.blocks_are_alike and not name.endswith(BEFORE_ATTENTION)

    def packs(self, max_tokens: int) -> bool:
        return True

    def forward(
        self,
        ids: Int[Tensor, " tokens"],
        sequences: Sequences,
        cache: KeyValueCache | None = None,
        at: Int[Tensor, "n m"] | None = None,
    ) -> Float[Tensor, "tokens v"] | Float[Tensor, "n m v"]:
        """The logits behind each token; with `at`, behind those places of each trial's tokens alone.

        cache: keeps the keys and values of these tokens, and attends to those of earlier ones.
        """
        return self.through_blocks(
            self.embedding(ids), self.rotary(sequences.positions), sequences, cache, at
        )

    def through_blocks(
        self,
        hidden: Float[Tensor, "tokens d"],
        rotary: RotaryTable,
        sequences: Sequences,
        cache: KeyValueCache | None = None,
        at: Int[Tensor, "n m"] | None = None,
    ) -> Float[Tensor, "tokens v"] | Float[Tensor, "n m v"]:
        """What follows the embedding: the part that is the same computation for every token.

        With `at`, the last block gives those places alone: no other token sees what it computes behind its keys and
        values. A summary is short beside its article, and the head is the widest layer of all.
        """
        *blocks, last = self.blocks
        for block in blocks:
            hidden = block(hidden, rotary, sequences, cache)
        if at is None:
            hidden = last(hidden, rotary, sequences, cache)
        else:
            starts = torch.arange(len(at), device=at.device)[:, None] * (len(hidden) // len(at))
            rows = (starts + at).flatten()
            if self.blocks_are_alike:
                hidden = last(hidden, rotary, sequences, cache)[rows]
            else:
                hidden = last(hidden, rotary, sequences, cache, rows=rows)
            hidden = hidden.reshape(*at.shape, -1)
        logits: Tensor = self.head(self.final_norm(hidden))
        return logits

    def summary_logits(self, batch: Batch) -> Float[Tensor, "n m v"]:
        assert batch.position_ids is not None, "our models take packed batches"
        assert batch.cu_seqlens is not None, "our models take packed batches"
        sequences = Sequences(batch.position_ids.flatten(), batch.cu_seqlens, rows=len(batch.input_ids))
        logits: Tensor = self(batch.input_ids.flatten(), sequences, at=batch.positions)
        return logits

    def logits(self, ids: Int[Tensor, "rows t"]) -> Float[Tensor, "rows t v"]:
        rows, t = ids.shape
        positions = torch.arange(t, device=ids.device).repeat(rows)
        cu_seqlens = torch.arange(0, rows * t + 1, t, dtype=torch.int32, device=ids.device)
        logits: Tensor = self(ids.flatten(), Sequences(positions, cu_seqlens, rows))
        return logits.reshape(rows, t, -1)
