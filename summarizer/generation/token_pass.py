"""One new token of each beam through a whole model of a known kind: its kernels, recorded as a graph.

What the modules of the model would do, in their order; the products, with their adapters, are recorded from the
layers themselves. A model of another kind, or whose layers take other ways than the kernels', has no kernel graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int
from torch import Tensor, nn
from transformers import (
    GPTJForCausalLM,
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
)

from summarizer.generation.key_values import KeyValues
from summarizer.models import probe
from summarizer.models.attention import is_packed
from summarizer.models.gptj_attention import GPTJAttention
from summarizer.models.rotary_attention import RotaryAttention
from summarizer.ops import activations, decode_attention, elementwise, kernel_graph, norms
from summarizer.ops.decode_gemm import DECODE_ROWS
from summarizer.ops.kernel_graph import KernelGraph, NotRecordableError, recorded
from summarizer.ops.norms import RMSNorm
from summarizer.ops.rotary import RotaryTable

Angles = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Cosines and sines, each of shape (rows, half), of positions."""


@dataclass(frozen=True)
class TokenPass:
    """The pass of a fixed number of rows, with the adapters, keys and values of when it was recorded."""

    graph: KernelGraph
    embedding: nn.Module
    angles: Angles
    hidden: Float32[Tensor, "rows d"]
    rotary: RotaryTable
    logits: Float32[Tensor, "rows v"]

    def __call__(
        self, ids: Int[Tensor, " rows"], positions: Int[Tensor, " rows"]
    ) -> Float32[Tensor, "rows v"]:
        """The next token's logits, valid until the next pass. `KeyValues.begin_writing` comes before it."""
        self.hidden.copy_(self.embedding(ids[:, None])[:, 0])
        cos, sin = self.angles(positions)
        self.rotary.cos.copy_(cos)
        self.rotary.sin.copy_(sin)
        self.graph.run()
        return self.logits


def token_pass(model: PreTrainedModel, key_values: KeyValues, rows: int) -> TokenPass | None:
    """The pass of a model that has read prompts into `key_values`; None where the model has to go its own way.

    Within `stored_weights_in_place`, as what it stands for.
    """
    known = _KNOWN.get(type(model))
    if rows > DECODE_ROWS:
        return None
    fits = all(
        decode_attention.supports(part.of_prompts) for both in key_values.layers.values() for part in both
    )
    if known is None or not fits or not kernel_graph.available() or not is_packed(model):
        return None
    try:
        return known(model, key_values, rows)
    except NotRecordableError:
        return None


def _gptj(model: GPTJForCausalLM, key_values: KeyValues, rows: int) -> TokenPass:
    """Source: transformers' GPTJBlock, whose attention and MLP see the same norm."""
    body, attention = model.transformer, model.transformer.h[0].attn
    _want(all(type(block.attn) is GPTJAttention for block in body.h))

    def angles(positions: Tensor) -> tuple[Tensor, Tensor]:
        sin, cos = attention.rotary_table(positions)
        return cos, sin

    hidden, table = _inputs(model, rows, attention.rotary_table.rotary_dim // 2, interleaved=True)
    with recorded() as graph:
        for layer, block in enumerate(body.h):
            activation = block.mlp.act
            _want(isinstance(activation, nn.GELU) and activation.approximate == "tanh")
            normed = _layer_norm(block.ln_1, hidden)
            attended = _attended(block.attn, layer, normed, key_values, table)
            wide = activations.gelu_tanh(_product(block.mlp.fc_in, normed))
            elementwise.add(hidden, _product(block.attn.out_proj, attended))
            elementwise.add(hidden, _product(block.mlp.fc_out, wide))
        logits = _product(model.lm_head, _layer_norm(body.ln_f, hidden))
    return TokenPass(graph, body.wte, angles, hidden, table, logits)


def _llama(model: PreTrainedModel, key_values: KeyValues, rows: int) -> TokenPass:
    """Source: transformers' LlamaDecoderLayer, which MistralDecoderLayer and Qwen2DecoderLayer repeat."""
    body = model.model
    attentions = [block.self_attn for block in body.layers]
    _want(all(type(attention) is RotaryAttention and not attention.has_norms for attention in attentions))
    hidden, table = _inputs(model, rows, body.layers[0].self_attn.head_dim // 2, interleaved=False)

    def angles(positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = body.rotary_emb(hidden, positions[:, None])  # each angle twice
        return cos[:, 0, : cos.shape[-1] // 2], sin[:, 0, : sin.shape[-1] // 2]

    with recorded() as graph:
        for layer, block in enumerate(body.layers):
            mlp = block.mlp
            _want(probe.is_function(mlp.act_fn, F.silu))
            normed = _rms_norm(block.input_layernorm, hidden)
            attended = _attended(block.self_attn, layer, normed, key_values, table)
            elementwise.add(hidden, _product(block.self_attn.o_proj, attended))
            normed = _rms_norm(block.post_attention_layernorm, hidden)
            gate, up = (_product(projection, normed) for projection in (mlp.gate_proj, mlp.up_proj))
            elementwise.add(hidden, _product(mlp.down_proj, activations.silu_mul(gate, up)))
        logits = _product(model.lm_head, _rms_norm(body.norm, hidden))
    return TokenPass(graph, body.embed_tokens, angles, hidden, table, logits)


_KNOWN: dict[type[PreTrainedModel], Callable[..., TokenPass]] = {
    GPTJForCausalLM: _gptj,
    LlamaForCausalLM: _llama,
    MistralForCausalLM: _llama,
    Qwen2ForCausalLM: _llama,
}
"""By the exact class: one that is derived from it may compute something else."""


def _inputs(model: PreTrainedModel, rows: int, half: int, *, interleaved: bool) -> tuple[Tensor, RotaryTable]:
    """What a pass is given: each row's embedding, and the angles of its position."""
    hidden = torch.empty(rows, model.config.hidden_size)
    return hidden, RotaryTable(torch.empty(rows, half), torch.empty(rows, half), interleaved)


def _attended(
    attention: Any, layer: int, normed: Tensor, key_values: KeyValues, table: RotaryTable
) -> Tensor:
    query, key, value = (
        _product(projection, normed) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    scaling = getattr(attention, "scaling", attention.head_dim**-0.5)
    return decode_attention.attend_new_token(query, key, value, key_values.kept(layer), table, scaling)


def _product(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer's product as the layer itself records it, adapters and all."""
    y: Tensor = layer(x)
    kernel_graph.require_last(x, y, "a product")
    return y


def _layer_norm(module: Any, x: Tensor) -> Tensor:
    _want(type(module) is nn.LayerNorm and module.weight is not None and module.weight.dtype == torch.float32)
    return norms.layer_norm(x, module.weight, module.bias, module.eps)


def _rms_norm(module: Any, x: Tensor) -> Tensor:
    _want(type(module) is RMSNorm and module.weight.dtype == torch.float32)
    return norms.rms_norm(x, module.weight, module.epsilon)


def _want(by_kernels: bool) -> None:
    if not by_kernels:
        raise NotRecordableError("a module that computes something else")
