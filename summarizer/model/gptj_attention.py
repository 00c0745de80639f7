"""GPT-J's attention through SDPA: transformers has it only written out, with q and k multiplied in fp32."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.models.gptj import modeling_gptj

from summarizer.model import attention
from summarizer.model.kernels import rotary
from summarizer.model.triton_kernels import attend_token

MODEL_TYPE = "gptj"


class PackedGPTJAttention(modeling_gptj.GPTJAttention):  # type: ignore[misc]
    """softmax(q k^T / sqrt(d)) v with rotary position embeddings on the first `rotary_dim` of each head.

    Source: Su et al. 2021 (arXiv:2104.09864), interleaved as GPT-J has it: neighbours 2i, 2i+1 turn together.
    """

    def forward(
        self,
        hidden_states: Float[Tensor, "rows t d"],
        layer_past: Any = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#rows t"] | None = None,
        use_cache: bool | None = False,
        output_attentions: bool | None = False,
        **more: Any,
    ) -> tuple[Float[Tensor, "rows t d"], None]:
        assert position_ids is not None
        rows, t, width = hidden_states.shape
        q, k, v = (
            projection(hidden_states).view(rows, t, self.num_attention_heads, self.head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if attend_token.turns(hidden_states):
            places = position_ids.expand(rows, 1).reshape(-1)
            q, k = (x[:, None] for x in attend_token.turned(q[:, 0], k[:, 0], self.embed_positions, places))
        else:
            sin, cos = self.embed_positions[position_ids][:, :, None, :].chunk(2, dim=-1)
            rotated = self.rotary_dim or self.head_dim
            q, k = (rotate(tensor, sin, cos, rotated) for tensor in (q, k))
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        if layer_past is not None:
            k, v = layer_past.update(k, v, self.layer_idx)
        mixed, _ = attention.attend(self, q, k, v, attention_mask)
        return self.out_proj(mixed.reshape(rows, t, width)), None


def rotate(
    x: Float[Tensor, "rows t heads d"],
    sin: Float[Tensor, "#rows t 1 half"],
    cos: Float[Tensor, "#rows t 1 half"],
    rotated: int,
) -> Float[Tensor, "rows t heads d"]:
    """Turn each pair of neighbours among the first `rotated` of a head by its position's angle, in fp32."""
    if rotary.takes(x, cos):
        return rotary.rotated(x, cos[:, :, 0], sin[:, :, 0], neighbours=True)
    turning = x[..., :rotated].float()
    first, second = turning[..., 0::2], turning[..., 1::2]
    turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
    return torch.cat((turned.to(x.dtype), x[..., rotated:]), dim=-1)


modeling_gptj.GPTJ_ATTENTION_CLASSES[attention.NAME] = PackedGPTJAttention
