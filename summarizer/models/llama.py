"""Llama and the families that compute the same but for a setting: Mistral, Qwen2, Qwen3, SmolLM2 and SmolLM3.

Source: Touvron et al. 2023 (arXiv:2302.13971); Jiang et al. 2023 (arXiv:2310.06825) for windows; Yang et al. 2025
(arXiv:2505.09388) for norms of each head's queries and keys; Yang et al. 2025 (arXiv:2501.18795) for layers without
positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig

from summarizer.models.attention import CausalAttention, KeyValueCache, RotaryEmbedding, Sequences
from summarizer.models.causal_lm import PackedModel
from summarizer.models.rotary_scaling import frequencies_of, unsupported_scaling
from summarizer.ops.activations import silu_mul
from summarizer.ops.elementwise import add
from summarizer.ops.norms import RMSNorm
from summarizer.ops.rotary import RotaryTable

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
MODEL_TYPES = tuple(ARCHITECTURES)


def unsupported(config: PretrainedConfig) -> str | None:
    """What a config asks for and this file does not compute; None where it computes everything."""
    if config.hidden_act != "silu":
        return f"hidden_act {config.hidden_act!r}"
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
        return f"layer_types {sorted(set(config.layer_types))}"
    return unsupported_scaling(config)


@dataclass(frozen=True)
class LayerConfig:
    """What one layer is made of, whichever family's it is."""

    layer: int
    d: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    input_bias: bool
    """Of the projections to queries, keys and values."""
    output_bias: bool
    mlp_bias: bool
    head_norms: bool
    """Queries and keys are normed, head by head."""
    rotates: bool
    """Positions turn queries and keys."""
    window: int | None
    """Of the latest tokens that attention sees; None for all."""

    @classmethod
    def of(cls, config: PretrainedConfig, layer: int) -> LayerConfig:
        family = config.model_type
        bias = bool(getattr(config, "attention_bias", False))
        types = getattr(config, "layer_types", None)
        windowed = family == "mistral" or (types is not None and types[layer] == "sliding_attention")
        return cls(
            layer=layer,
            d=config.hidden_size,
            inner=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            epsilon=config.rms_norm_eps,
            input_bias=family == "qwen2" or bias,
            output_bias=bias,
            mlp_bias=bool(getattr(config, "mlp_bias", False)),
            head_norms=family == "qwen3",
            rotates=family != "smollm3" or bool(config.no_rope_layers[layer]),
            window=getattr(config, "sliding_window", None) if windowed else None,
        )


class Attention(CausalAttention):
    """Attention whose heads share keys and values in groups, with rotary positions on whole heads."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__(config.layer, config.head_dim, config.window)
        self.rotates = config.rotates
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.d, queries, bias=config.input_bias)
        self.k_proj = nn.Linear(config.d, keys, bias=config.input_bias)
        self.v_proj = nn.Linear(config.d, keys, bias=config.input_bias)
        self.o_proj = nn.Linear(queries, config.d, bias=config.output_bias)
        if config.head_norms:
            self.q_norm = rms_norm(config.head_dim, config.epsilon)
            self.k_norm = rms_norm(config.head_dim, config.epsilon)
        self.has_norms = config.head_norms

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
        if self.has_norms:
            q, k = self.q_norm(q), self.k_norm(k)
        mixed = self.attend(q, k, v, rotary if self.rotates else None, sequences, cache, rows)
        y: Tensor = self.o_proj(mixed)
        return y


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)). Source: Shazeer 2020 (arXiv:2002.05202)."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.d, config.inner, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.d, config.inner, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.inner, config.d, bias=config.mlp_bias)

    def forward(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d"]:
        y: Tensor = self.down_proj(silu_mul(self.gate_proj(x), self.up_proj(x)))
        return y


class Block(nn.Module):
    """x + attention(norm(x)), and then the same with the MLP; of the last block, for the wanted `rows` alone."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = rms_norm(config.d, config.epsilon)
        self.post_attention_layernorm = rms_norm(config.d, config.epsilon)

    def forward(
        self,
        x: Float[Tensor, "tokens d"],
        rotary: RotaryTable,
        sequences: Sequences,
        cache: KeyValueCache | None,
        rows: Int[Tensor, " wanted"] | None = None,
    ) -> Float[Tensor, "_ d"]:
        mixed = self.self_attn(self.input_layernorm(x), rotary, sequences, cache, rows)
        x = add(x if rows is None else x[rows], mixed)
        return add(x, self.mlp(self.post_attention_layernorm(x)))


class Body(nn.Module):
    """All but the head."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Block(LayerConfig.of(config, layer)) for layer in range(config.num_hidden_layers)
        )
        self.norm = rms_norm(config.hidden_size, config.rms_norm_eps)


class Model(PackedModel):
    """The whole model, of any of the families."""

    prefix = "model"

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        frequencies, factor = frequencies_of(config)
        self.rotary = RotaryEmbedding(frequencies, factor=factor)

    @property
    def architecture(self) -> str:
        return ARCHITECTURES[self.config.model_type]

    @property
    def embedding(self) -> nn.Module:
        return self.model.embed_tokens

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.model.layers)

    @property
    def final_norm(self) -> nn.Module:
        return self.model.norm


def rms_norm(width: int, epsilon: float) -> RMSNorm:
    """The norm of all its places."""
    return RMSNorm(nn.Parameter(torch.ones(width), requires_grad=False), epsilon)
