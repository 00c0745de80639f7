"""Phi-1, Phi-1.5 and Phi-2: Li et al. 2023 (arXiv:2309.05463), in the layout of their checkpoints.

Attention and MLP of a block see the same norm, as in GPT-J; heads turn as Llama's do, in their first part alone;
and every product has a bias.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PhiConfig

from summarizer.models.attention import CausalAttention, KeyValueCache, RotaryEmbedding, Sequences
from summarizer.models.causal_lm import PackedModel
from summarizer.models.rotary_scaling import frequencies_of, unsupported_scaling
from summarizer.ops.activations import gelu_tanh
from summarizer.ops.elementwise import add
from summarizer.ops.norms import LayerNorm
from summarizer.ops.rotary import RotaryTable

MODEL_TYPES = ("phi",)


def unsupported(config: PhiConfig) -> str | None:
    """What a config asks for and this file does not compute; None where it computes everything."""
    if config.hidden_act not in ("gelu_new", "gelu_pytorch_tanh"):
        return f"hidden_act {config.hidden_act!r}"
    if config.qk_layernorm:
        return "qk_layernorm"
    return unsupported_scaling(config, partial=True)


class Attention(CausalAttention):
    """Attention whose heads share keys and values in groups, with rotary positions on the first part of heads."""

    def __init__(self, config: PhiConfig, layer: int) -> None:
        super().__init__(layer, config.hidden_size // config.num_attention_heads)
        keys = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, keys)
        self.v_proj = nn.Linear(config.hidden_size, keys)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

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
        y: Tensor = self.dense(self.attend(q, k, v, rotary, sequences, cache, rows))
        return y


class MLP(nn.Module):
    """Two products with GELU in between."""

    def __init__(self, config: PhiConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d"]:
        y: Tensor = self.fc2(gelu_tanh(self.fc1(x)))
        return y


class Block(nn.Module):
    """x + attention(norm(x)) + mlp(norm(x)); of the last block, for the wanted `rows` alone."""

    def __init__(self, config: PhiConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        x: Float[Tensor, "tokens d"],
        rotary: RotaryTable,
        sequences: Sequences,
        cache: KeyValueCache | None,
        rows: Int[Tensor, " wanted"] | None = None,
    ) -> Float[Tensor, "_ d"]:
        normed = self.input_layernorm(x)
        mixed: Tensor = self.self_attn(normed, rotary, sequences, cache, rows)
        if rows is not None:
            x, normed = x[rows], normed[rows]
        return add(add(mixed, self.mlp(normed)), x)


class Body(nn.Module):
    """All but the head."""

    def __init__(self, config: PhiConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.final_layernorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class Model(PackedModel):
    """The whole model; its head has a bias."""

    prefix = "model"
    architecture = "PhiForCausalLM"

    def __init__(self, config: PhiConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        frequencies, factor = frequencies_of(config)
        self.rotary = RotaryEmbedding(frequencies, factor=factor)

    @property
    def embedding(self) -> nn.Module:
        return self.model.embed_tokens

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.model.layers)

    @property
    def final_norm(self) -> nn.Module:
        return self.model.final_layernorm
