"""Attention of Llama's kind: our own module in the place of transformers', with its rotations in one pass.

Llama, Mistral, Qwen, SmolLM and many others have it, each as a class of its own; which of them compute this, their
numbers say.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from summarizer.models import attention, probe
from summarizer.ops import rotary

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
NORMS = ("q_norm", "k_norm")
"""Of each head's queries and keys; some families have them."""
SETTINGS = ("head_dim", "scaling", "num_key_value_groups", "layer_idx")


class RotaryAttention(nn.Module):
    """softmax(scaling q k^T) v, grouped queries, rotary position embeddings on heads or on their first part.

    Source: Su et al. 2021 (arXiv:2104.09864), a head's halves turned against each other as Llama has it; Ainslie et
    al. 2023 (arXiv:2305.13245) for heads that share keys and values.
    """

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    o_proj: nn.Module
    q_norm: nn.Module
    k_norm: nn.Module
    is_causal = True  # read by the attention functions of transformers, as num_key_value_groups is

    def __init__(self, own: nn.Module):
        """own: the layer whose parts these are, under the names that checkpoints give them."""
        super().__init__()
        for name, part in own.named_children():
            self.add_module(name, part)
        self.has_norms = hasattr(self, NORMS[0])
        self.head_dim, self.scaling, self.num_key_value_groups, self.layer_idx = (
            getattr(own, name) for name in SETTINGS
        )

    def forward(
        self,
        hidden_states: Float[Tensor, "rows t d"],
        position_embeddings: tuple[Float[Tensor, "#rows t turning"], Float[Tensor, "#rows t turning"]],
        attention_mask: Tensor | None = None,
        **more: Any,
    ) -> tuple[Float[Tensor, "rows t d"], None]:
        """position_embeddings: cosines and sines of each token's angles, each twice; as wide as what turns."""
        rows, t, _ = hidden_states.shape
        q, k, v = (
            projection(hidden_states).view(rows, t, -1, self.head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.has_norms:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate_halves(q, k, *position_embeddings)
        v = v.transpose(1, 2)
        if (cache := attention.cache_among(more)) is not None:
            k, v = cache.update(k, v, self.layer_idx)
        mixed, _ = attention.attend(self, q, k, v, attention_mask, scaling=self.scaling)
        return self.o_proj(mixed.reshape(rows, t, -1)), None


def rotate_halves(
    q: Float[Tensor, "rows t heads d"],
    k: Float[Tensor, "rows t kv_heads d"],
    cos: Float[Tensor, "#rows t turning"],
    sin: Float[Tensor, "#rows t turning"],
) -> tuple[Float[Tensor, "rows heads t d"], Float[Tensor, "rows kv_heads t d"]]:
    """Turn each head's number i with its number turning / 2 + i by its token's angle; heads then precede tokens.

    The numbers of a head from `turning` on stay.
    """
    q, k = (rotary.rotate(x, cos, sin, interleaved=False).transpose(1, 2) for x in (q, k))
    return q, k


def replace_rotary_attention(model: PreTrainedModel) -> int:
    """Put this attention in the place of every layer that computes the same, and return how many those are.

    For a model whose attention functions are `attention.attend`.
    """
    replaced = 0
    for name, module in list(model.named_modules()):
        parts = {part for part, _ in module.named_children()}
        if parts - set(NORMS) == set(PROJECTIONS) and _computes_the_same(module):
            model.set_submodule(name, RotaryAttention(module))
            replaced += 1
    return replaced


def _computes_the_same(module: nn.Module) -> bool:
    if not all(hasattr(module, name) for name in SETTINGS):
        return False
    asked: Any = copy.deepcopy(module).eval()
    head, groups, d, t = asked.head_dim, asked.num_key_value_groups, 8, 6
    for seed, name in enumerate(PROJECTIONS):
        bias = getattr(module, name).bias
        d_out, d_in = {"q_proj": (groups * head, d), "o_proj": (d, groups * head)}.get(name, (head, d))
        projection = nn.Linear(d_in, d_out, bias=bias is not None)
        projection.weight = nn.Parameter(probe.drawn(d_out, d_in, seed=seed), requires_grad=False)
        if bias is not None:
            projection.bias = nn.Parameter(probe.drawn(d_out, seed=seed + 10), requires_grad=False)
        setattr(asked, name, projection)
    for name in NORMS:
        if hasattr(asked, name):
            for parameter in getattr(asked, name).to_empty(device="cpu").parameters():
                parameter.data = probe.drawn(*parameter.shape, seed=20)
    x = probe.drawn(2, t, d, seed=4)
    # Whole heads turn, or only their first half: a module that is not made for such angles raises, which is fine.
    whole, part = (_probed(x, turning) for turning in (head, head // 4 * 2))
    ours = RotaryAttention(asked)
    if probe.output(asked, **whole) is None:
        return probe.agree(asked, ours, part)
    return probe.agree(asked, ours, whole) and (
        probe.output(asked, **part) is None or probe.agree(asked, ours, part)
    )


def _probed(x: Tensor, turning: int) -> dict[str, Any]:
    angles = torch.linspace(-3, 3, x.shape[1])[:, None] * torch.linspace(0.1, 2, turning // 2)
    cos, sin = (turned.repeat(1, 2).expand(len(x), -1, -1) for turned in (angles.cos(), angles.sin()))
    return {"hidden_states": x, "position_embeddings": (cos, sin), "attention_mask": None}
