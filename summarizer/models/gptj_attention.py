"""GPT-J's attention: our own module in the place of transformers', packed and with its rotations in one pass.

transformers wrote it out with q and k multiplied in fp32 until 5.23, and goes through its attention interface from
5.24 on; what it hands an attention layer changed with that. This module takes from either what they share: hidden
states, positions, a mask, and a cache, which it knows by its type.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from summarizer.models import attention, probe
from summarizer.ops import decode_attention, rotary

MODEL_TYPE = "gptj"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class RotaryTable(nn.Module):
    """The sines, then the cosines, of each position times each of rotary_dim / 2 frequencies, in fp32.

    One for all layers, which is moved between devices as one. Source: Vaswani et al. 2017 (arXiv:1706.03762),
    section 3.5, whose base is 10,000.
    """

    def __init__(self, positions: int, rotary_dim: int):
        super().__init__()
        frequencies = 1.0 / (10_000 ** (torch.arange(0, rotary_dim, 2, dtype=torch.int64) / rotary_dim))
        angles = torch.arange(positions, dtype=torch.int64).float()[:, None] * frequencies
        self.rotary_dim = rotary_dim
        self.register_buffer("table", torch.cat((angles.sin(), angles.cos()), dim=1), persistent=False)

    def forward(
        self, positions: Int[Tensor, "*places"]
    ) -> tuple[Float[Tensor, "*places half"], Float[Tensor, "*places half"]]:
        sin, cos = cast(Tensor, self.table)[positions].chunk(2, dim=-1)
        return sin, cos


class GPTJAttention(nn.Module):
    """softmax(q k^T / sqrt(d)) v with rotary position embeddings on the first `rotary_dim` of each head.

    Source: Su et al. 2021 (arXiv:2104.09864), interleaved as GPT-J has it: neighbors 2i, 2i+1 turn together.
    """

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    out_proj: nn.Module
    is_causal = True  # read by the attention functions of transformers

    def __init__(self, own: nn.Module, rotary_table: RotaryTable, head_dim: int, layer: int):
        """own: the layer whose projections these are, in its order, under the names that checkpoints give them."""
        super().__init__()
        for name, part in own.named_children():
            if name in PROJECTIONS:
                self.add_module(name, part)
        self.rotary_table = rotary_table
        self.head_dim = head_dim
        self.layer_idx = layer

    def forward(
        self,
        hidden_states: Float[Tensor, "rows t d"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#rows t"] | None = None,
        **more: Any,
    ) -> tuple[Float[Tensor, "rows t d"], None]:
        assert position_ids is not None
        rows, t, _ = hidden_states.shape
        q, k, v = (
            projection(hidden_states).view(rows, t, -1, self.head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if decode_attention.rotates_on_gpu(hidden_states):
            table, positions = self.rotary_table.table, position_ids.expand(rows, 1).reshape(-1)
            both = decode_attention.rotate_token(q[:, 0], k[:, 0], cast(Tensor, table), positions)
            q, k = (x[:, None] for x in both)
        else:
            sin, cos = self.rotary_table(position_ids)
            q, k = (rotary.rotate(tensor, cos, sin, interleaved=True) for tensor in (q, k))
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        if (cache := attention.cache_among(more)) is not None:
            k, v = cache.update(k, v, self.layer_idx)
        mixed, _ = attention.attend(self, q, k, v, attention_mask)
        return self.out_proj(mixed.reshape(rows, t, -1)), None


def replace_gptj_attention(model: PreTrainedModel) -> bool:
    """Put this attention into every layer of a GPT-J, and say whether all of them took it.

    They take it where a small copy of each one's own computes the same; else all are left as they are.
    """
    config = model.config
    head_dim = config.hidden_size // config.num_attention_heads
    table = RotaryTable(config.max_position_embeddings, config.rotary_dim or head_dim)
    layers = {
        name: module
        for name, module in model.named_modules()
        if {part for part, child in module.named_children() if not isinstance(child, nn.Dropout)}
        == set(PROJECTIONS)
    }
    if not layers or not all(_computes_the_same(module, table, head_dim) for module in layers.values()):
        return False
    for layer, (name, module) in enumerate(layers.items()):
        model.set_submodule(name, GPTJAttention(module, table, head_dim, layer))
    return True


def _computes_the_same(module: nn.Module, table: RotaryTable, head_dim: int) -> bool:
    positions = len(cast(Tensor, table.table))
    heads, d, t = 2, 8, min(6, positions)
    asked: Any = copy.deepcopy(module).eval()
    asked.num_attention_heads = heads
    for seed, name in enumerate(PROJECTIONS):
        d_out, d_in = (d, heads * head_dim) if name == "out_proj" else (heads * head_dim, d)
        projection = nn.Linear(d_in, d_out, bias=False)
        projection.weight = nn.Parameter(probe.drawn(d_out, d_in, seed=seed), requires_grad=False)
        setattr(asked, name, projection)
    x = probe.drawn(2, t, d, seed=4)
    early, late = torch.arange(t), torch.arange(positions - t, positions)
    # A mask as eager attention has it; of the two ways to learn of positions either version takes one.
    mask = torch.zeros(2, 1, t, t).masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -torch.inf)
    given = {
        "hidden_states": x,
        "attention_mask": mask,
        "position_ids": torch.stack((early, late)),
        "position_embeddings": table(torch.stack((early, late))),
    }
    return probe.agree(asked, GPTJAttention(asked, table, head_dim, 0), given)
