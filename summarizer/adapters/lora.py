"""LoRA: y = W x + (alpha / dim) B A x with W frozen.

Source: Hu et al. 2021 (arXiv:2106.09685). On the embedding it is an Embedding(v, dim), then a Linear(dim, d),
as in the reference experiment. A is drawn as `nn.Linear` draws its weight (uniform within 1/sqrt(d_in)), the
embedding's A as `nn.Embedding` draws its own (a standard normal), B is zero.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from summarizer.adapters.protocol import Adapter, Parameters, Role
from summarizer.ops.decode_gemm import LowRankPairs
from summarizer.quantization.frozen import FrozenLinear, FrozenWeight

FEW_TOKENS = 16
"""Of a trial. Up to here a CPU multiplies the pairs in their own fp32: converting them would cost more."""


class LoRA(Adapter):
    """A low-rank pair beside each adapted layer.

    `b` is kept as (r, d_out), so that a trial's share of a stack padded to the largest dim is one block."""

    dim: Annotated[int, Field(ge=1)]
    """r, the rank of the pair."""
    alpha: Annotated[float, Field(gt=0)] | None
    """Numerator of the scale; null is dim, which scales by 1."""
    dropout: Annotated[float, Field(ge=0, lt=1)]

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.dim

    @property
    def input_dropout(self) -> float:
        return self.dropout

    def draw_linear(self, d_in: int, d_out: int, generator: torch.Generator) -> dict[str, Tensor]:
        bound = d_in**-0.5
        a = torch.empty(self.dim, d_in).uniform_(-bound, bound, generator=generator)
        return {"a": a, "b": torch.zeros(self.dim, d_out)}

    def draw_embedding(self, v: int, d: int, generator: torch.Generator) -> dict[str, Tensor]:
        a = torch.empty(self.dim, v).normal_(generator=generator)
        return {"a": a, "b": torch.zeros(self.dim, d)}

    @staticmethod
    def adapted_linear(
        frozen: FrozenLinear,
        x: Float[Tensor, "n m d_in"],
        dropped: Float[Tensor, "n m d_in"] | None,
        stacked: Parameters,
        scale: Float[Tensor, "n 1 1"],
    ) -> Float[Tensor, "n m d_out"]:
        return low_rank_product(frozen, x, dropped, stacked["a"], stacked["b"], scale)

    @staticmethod
    def decode_linear(
        frozen: FrozenLinear, x: Float[Tensor, "... d_in"], stacked: Parameters, scale: Float[Tensor, "n 1 1"]
    ) -> Float[Tensor, "... d_out"] | None:
        return frozen.weight.decode_gemm(x, frozen.bias, LowRankPairs(stacked["a"], stacked["b"], scale))

    @staticmethod
    def delta_embedding(
        ids: Int[Tensor, "n m"], stacked: Parameters, scale: Float[Tensor, "n 1 1"]
    ) -> Float[Tensor, "n m d"]:
        a, b = stacked["a"], stacked["b"]
        columns = ids[:, None, :].expand(-1, a.shape[1], -1)
        return torch.bmm(a.gather(2, columns).transpose(1, 2) * scale, b)

    def peft_config(self, target_modules: list[str], **more: Any) -> Any:
        from peft import LoraConfig

        config = LoraConfig(
            r=self.dim,
            lora_alpha=self.dim if self.alpha is None else self.alpha,
            lora_dropout=self.dropout,
            target_modules=target_modules,
            bias="none",
            task_type="CAUSAL_LM",
            inference_mode=True,
            **more,
        )
        # PEFT makes a set of the list, which would be written in another order each time.
        config.target_modules = target_modules
        return config

    @staticmethod
    def to_peft(role: Role, tensors: Parameters) -> dict[str, Tensor]:
        a, b = _peft_names(role)
        return {a: tensors["a"].contiguous(), b: tensors["b"].t().contiguous()}

    @staticmethod
    def from_peft(role: Role, tensors: Parameters) -> dict[str, Tensor]:
        a, b = _peft_names(role)
        return {"a": tensors[a], "b": tensors[b].t()}


def _peft_names(role: Role) -> tuple[str, str]:
    if role == "embedding":
        return "lora_embedding_A", "lora_embedding_B"
    return "lora_A.weight", "lora_B.weight"


# ---- the product -------------------------------------------------------------------------------------------------


def low_rank_product(
    frozen: FrozenLinear,
    x: Float[Tensor, "n m d_in"],
    dropped: Float[Tensor, "n m d_in"] | None,
    a: Float[Tensor, "n r d_in"],
    b: Float[Tensor, "n r d_out"],
    scale: Float[Tensor, "n 1 1"],
) -> Float[Tensor, "n m d_out"]:
    """x W^T + bias + scale (x A^T) B, in the precision of x; where given, `dropped` is what the pairs multiply.

    What backward needs is the pairs' input, the stored W, the pairs, and the narrow x A^T. Both adapter products
    are added in place to the frozen one's result, so that neither costs a tensor of its own size.
    """
    if dropped is None:
        many = frozen.weight.prefill_gemm(x, frozen.bias, LowRankPairs(a, b, scale))
        if many is not None:
            return many
    y: Tensor = _LowRankProduct.apply(x, dropped, a, b, scale, frozen.weight)  # type: ignore[no-untyped-call]
    return y if frozen.bias is None else y + frozen.bias.to(y.dtype)


class _LowRankProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, a: Tensor, b: Tensor, scale: Tensor, weight: FrozenWeight
    ) -> Tensor:
        inputs = x if dropped is None else dropped
        ctx.weight, ctx.dropped = weight, dropped is not None
        if x.device.type == "cpu" and x.shape[1] <= FEW_TOKENS:
            narrow = torch.bmm(inputs.to(a.dtype), a.transpose(1, 2)) * scale
            ctx.save_for_backward(inputs, a, b, scale, narrow.to(x.dtype))
            return weight.matmul(x).add_(torch.bmm(narrow, b))
        narrow = torch.bmm(inputs, a.to(x.dtype).transpose(1, 2)) * scale.to(x.dtype)
        ctx.save_for_backward(inputs, a, b, scale, narrow)
        return weight.matmul(x).baddbmm_(narrow, b.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, a, b, scale, narrow = ctx.saved_tensors
        (grad,) = grads
        grad_narrow = torch.bmm(grad, b.to(grad.dtype).transpose(1, 2)) * scale.to(grad.dtype)
        grad_a = torch.bmm(grad_narrow.transpose(1, 2), inputs).to(a.dtype)
        grad_b = torch.bmm(narrow.transpose(1, 2), grad).to(b.dtype)
        if not ctx.needs_input_grad[0]:
            return None, None, grad_a, grad_b, None, None
        grad_x = ctx.weight.matmul_backward(grad)
        if ctx.dropped:
            return grad_x, torch.bmm(grad_narrow, a.to(grad.dtype)), grad_a, grad_b, None, None
        return grad_x.baddbmm_(grad_narrow, a.to(grad.dtype)), None, grad_a, grad_b, None, None
