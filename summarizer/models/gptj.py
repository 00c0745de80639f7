"""GPT-J: Wang and Komatsuzaki 2021 (github.com/kingoflolz/mesh-transformer-jax), in the layout of its checkpoints.

Attention and MLP of a block see the same norm, and are added to its input together.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GPTJConfig

from summarizer.models.attention import CausalAttention, KeyValueCache, RotaryEmbedding, Sequences
from summarizer.models.causal_lm import PackedModel
from summarizer.ops.activations import gelu_tanh
from summarizer.ops.elementwise import add
from summarizer.ops.norms import LayerNorm
from summarizer.ops.rotary import RotaryTable

MODEL_TYPES = ("gptj",)
TANH_GELU = ("gelu_new", "gelu_pytorch_tanh")
"""Names by which configs ask for GELU in its tanh form."""


def unsupported(config: GPTJConfig) -> str | None:
    """What a config asks for and this file does not compute; None where it computes everything."""
    if config.activation_function not in TANH_GELU:
        return f"activation_function {config.activation_function!r}"
    if not config.rotary_dim or config.rotary_dim > config.n_embd // config.n_head:
        return f"rotary_dim {config.rotary_dim!r}"
    return None


class Attention(CausalAttention):
    """Attention whose queries and keys turn with their positions in the first `rotary_dim` numbers of each head."""

    def __init__(self, config: GPTJConfig, layer: int) -> None:
        super().__init__(layer, config.n_embd // config.n_head)
        self.k_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.v_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.q_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.out_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(
        self,
        x: Float[Tensor, "tokens d"],
        rotary: RotaryTable,
        sequences: Sequences,
        cache: KeyValueCache | None,
        rows: Int[Tensor, " wanted"] | None = None,
    ) -> Float[Tensor, "_ d"]:
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        y: Tensor = self.out_proj(self.attend(q, k, v, rotary, sequences, cache, rows))
        return y


class MLP(nn.Module):
    """Two products with GELU in between."""

    def __init__(self, config: GPTJConfig) -> None:
        super().__init__()
        inner = config.n_inner if config.n_inner is not None else 4 * config.n_embd
        self.fc_in = nn.Linear(config.n_embd, inner)
        self.fc_out = nn.Linear(inner, config.n_embd)

    def forward(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d"]:
        y: Tensor = self.fc_out(gelu_tanh(self.fc_in(x)))
        return y


class Block(nn.Module):
    """x + attention(norm(x)) + mlp(norm(x)); of the last block, for the wanted `rows` alone."""

    def __init__(self, config: GPTJConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Float[Tensor, "tokens d"],
        rotary: RotaryTable,
        sequences: Sequences,
        cache: KeyValueCache | None,
        rows: Int[Tensor, " wanted"] | None = None,
    ) -> Float[Tensor, "_ d"]:
        normed = self.ln_1(x)
        mixed: Tensor = self.attn(normed, rotary, sequences, cache, rows)
        if rows is not None:
            x, normed = x[rows], normed[rows]
        return add(add(mixed, self.mlp(normed)), x)


class Body(nn.Module):
    """All but the head."""

    def __init__(self, config: GPTJConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)


class Model(PackedModel):
    """The whole model; its head has a bias."""

    prefix = "transformer"
    architecture = "GPTJForCausalLM"

    def __init__(self, config: GPTJConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = Body(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size)
        pairs = torch.arange(0, config.rotary_dim, 2, dtype=torch.int64) / config.rotary_dim
        self.rotary = RotaryEmbedding(1.0 / 10_000**pairs, interleaved=True)

    @property
    def embedding(self) -> nn.Module:
        return self.transformer.wte

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.transformer.h)

    @property
    def final_norm(self) -> nn.Module:
        return self.transformer.ln_f
