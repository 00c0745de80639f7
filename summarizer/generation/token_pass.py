"""One new token of each beam through a whole model of a known kind: its kernels, taken down on a tape.

What the modules of the model would do, in their order; the products, with their adapters, are taken down from the
layers themselves. A model of another kind, or whose layers take other ways than the kernels', has no tape.
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

from summarizer import compat
from summarizer.generation.key_values import KeyValues
from summarizer.models.attention import is_packed
from summarizer.models.gptj_attention import GPTJAttention
from summarizer.models.rotary_attention import RotaryAttention
from summarizer.ops import attend_one, between, probe
from summarizer.ops.attend_one import Turns
from summarizer.ops.few_rows import FEW_ROWS
from summarizer.ops.rms_norm import RMSNorm
from summarizer.ops.tape import Tape, taken_down

Angles = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Cosines and sines, each of shape (rows, half), of positions."""


class _NoKernelError(Exception):
    """A part of the model that no kernel stands for."""


@dataclass(frozen=True)
class TokenPass:
    """The pass of a fixed number of rows, with the adapters, keys and values of when it was taken down."""

    tape: Tape
    embedding: nn.Module
    angles: Angles
    hidden: Float32[Tensor, "rows d"]
    turns: Turns
    logits: Float32[Tensor, "rows v"]

    def __call__(
        self, ids: Int[Tensor, " rows"], positions: Int[Tensor, " rows"]
    ) -> Float32[Tensor, "rows v"]:
        """The next token's logits, valid until the next pass. `KeyValues.begin_writing` comes before it."""
        self.hidden.copy_(self.embedding(ids[:, None])[:, 0])
        cos, sin = self.angles(positions)
        self.turns.cos.copy_(cos)
        self.turns.sin.copy_(sin)
        self.tape.run()
        return self.logits


def token_pass(model: PreTrainedModel, key_values: KeyValues, rows: int) -> TokenPass | None:
    """The pass of a model that has read prompts into `key_values`; None where the model has to go its own way.

    Within `stored_weights_in_place`, as what it stands for.
    """
    known = _KNOWN.get(type(model))
    if rows > FEW_ROWS:
        return None
    fits = all(attend_one.takes(part.of_prompts) for both in key_values.layers.values() for part in both)
    if known is None or not fits or not (between.is_at_hand() and Tape.is_at_hand()) or not is_packed(model):
        return None
    try:
        return known(model, key_values, rows)
    except _NoKernelError:
        return None


def _gptj(model: GPTJForCausalLM, key_values: KeyValues, rows: int) -> TokenPass:
    """Source: transformers' GPTJBlock, whose attention and MLP see the same norm."""
    body, attention = model.transformer, model.transformer.h[0].attn
    _want(all(type(block.attn) is GPTJAttention for block in body.h))

    def angles(positions: Tensor) -> tuple[Tensor, Tensor]:
        sin, cos = attention.rotary_table(positions)
        return cos, sin

    hidden, turns = _inputs(model, rows, attention.rotary_table.rotary_dim // 2, neighbors=True)
    with taken_down() as tape:
        for layer, block in enumerate(body.h):
            activation = block.mlp.act
            _want(isinstance(activation, nn.GELU) and activation.approximate == "tanh")
            normed = _layer_norm(block.ln_1, hidden)
            attended = _attended(block.attn, layer, normed, key_values, turns, tape)
            wide = between.tanh_gelu_(_product(block.mlp.fc_in, normed, tape))
            between.add_(hidden, _product(block.attn.out_proj, attended, tape))
            between.add_(hidden, _product(block.mlp.fc_out, wide, tape))
        logits = _product(model.lm_head, _layer_norm(body.ln_f, hidden), tape)
    return TokenPass(tape, body.wte, angles, hidden, turns, logits)


def _llama(model: PreTrainedModel, key_values: KeyValues, rows: int) -> TokenPass:
    """Source: transformers' LlamaDecoderLayer, which MistralDecoderLayer and Qwen2DecoderLayer repeat."""
    body = model.model
    attentions = [block.self_attn for block in body.layers]
    _want(all(type(attention) is RotaryAttention and not attention.has_norms for attention in attentions))
    hidden, turns = _inputs(model, rows, body.layers[0].self_attn.head_dim // 2, neighbors=False)

    def angles(positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = body.rotary_emb(hidden, positions[:, None])  # each angle twice
        return cos[:, 0, : cos.shape[-1] // 2], sin[:, 0, : sin.shape[-1] // 2]

    with taken_down() as tape:
        for layer, block in enumerate(body.layers):
            mlp = block.mlp
            _want(probe.is_function(mlp.act_fn, F.silu))
            normed = _rms_norm(block.input_layernorm, hidden)
            attended = _attended(block.self_attn, layer, normed, key_values, turns, tape)
            between.add_(hidden, _product(block.self_attn.o_proj, attended, tape))
            normed = _rms_norm(block.post_attention_layernorm, hidden)
            gate, up = (_product(projection, normed, tape) for projection in (mlp.gate_proj, mlp.up_proj))
            between.add_(hidden, _product(mlp.down_proj, between.silu_times_(gate, up), tape))
        logits = _product(model.lm_head, _rms_norm(body.norm, hidden), tape)
    return TokenPass(tape, body.embed_tokens, angles, hidden, turns, logits)


_KNOWN: dict[type[PreTrainedModel], Callable[..., TokenPass]] = {
    GPTJForCausalLM: _gptj,
    LlamaForCausalLM: _llama,
    MistralForCausalLM: _llama,
    Qwen2ForCausalLM: _llama,
}
"""By the exact class: one that is derived from it may compute something else."""


def _inputs(model: PreTrainedModel, rows: int, half: int, *, neighbors: bool) -> tuple[Tensor, Turns]:
    """What a pass is given: each row's embedding, and the angles of its position."""
    hidden = torch.empty(rows, model.config.hidden_size)
    return hidden, Turns(torch.empty(rows, half), torch.empty(rows, half), neighbors)


def _attended(
    attention: Any, layer: int, normed: Tensor, key_values: KeyValues, turns: Turns, tape: Tape
) -> Tensor:
    query, key, value = (
        _product(projection, normed, tape)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    scaling = getattr(attention, "scaling", attention.head_dim**-0.5)
    return attend_one.attend_new(query, key, value, key_values.kept(layer), turns, scaling)


def _product(layer: nn.Module, x: Tensor, tape: Tape) -> Tensor:
    """A layer's product as the layer itself puts it on the tape, adapters and all."""
    before = len(tape.names)
    y: Tensor = layer(x)
    # Torch's way, which a layer takes for want of a kernel, would run now and never again.
    _want(len(tape.names) == before + 1 and y.is_contiguous() and tape.last_uses(x) and tape.last_uses(y))
    # An adapter that torch added in place would be in this y alone.
    _want(compat.was_never_written_in_place(y))
    return y


def _layer_norm(module: Any, x: Tensor) -> Tensor:
    _want(type(module) is nn.LayerNorm and module.weight is not None and module.weight.dtype == torch.float32)
    return between.layer_norm(x, module.weight, module.bias, module.eps)


def _rms_norm(module: Any, x: Tensor) -> Tensor:
    _want(type(module) is RMSNorm and module.weight.dtype == torch.float32)
    return between.rms_norm(x, module.weight, module.epsilon)


def _want(by_kernels: bool) -> None:
    if not by_kernels:
        raise _NoKernelError
