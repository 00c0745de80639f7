"""LoRA: y = W x + scale B A x with W frozen, and those of its relatives that are settings of it.

Source: Hu et al. 2021 (arXiv:2106.09685). On the embedding it is an Embedding(v, dim), then a Linear(dim, d),
as in the reference experiment. A is drawn as `nn.Linear` draws its weight (uniform within 1/sqrt(d_in)), the
embedding's A as `nn.Embedding` draws its own (a standard normal), B is zero. The scale is alpha / dim.

rsLoRA (Kalajdzievski 2023, arXiv:2312.03732) scales by alpha / sqrt(dim), so that what a pair adds does not shrink
as dim grows. LoRA+ (Hayou et al. 2024, arXiv:2402.12354) lets B learn faster than A by a ratio. LoRA-FA (Zhang
et al. 2023, arXiv:2308.03303) trains B alone, with B's plain gradient: peft's `create_lorafa_optimizer` multiplies
that by (A A^T)^-1 and leaves the embedding's A to be trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
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

    dim: Annotated[int, Field(ge=1, le=2**16)]
    """r, the rank of the pair."""
    alpha: Annotated[float, Field(gt=0)] | None
    """Numerator of the scale; null is dim, which scales by 1 (rsLoRA's by sqrt(dim))."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    use_rslora: bool = False
    """Scale by alpha / sqrt(dim), as rsLoRA does."""
    loraplus_lr_ratio: Annotated[float, Field(gt=0)] = 1.0
    """B's learning rate over A's, which is the optimizer's; LoRA+ has it above 1."""

    train_a: bool = True
    """False trains B alone, as LoRA-FA does."""

    @property
    def scale(self) -> float:
        alpha = self.dim if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.dim) if self.use_rslora else self.dim)

    @property
    def lr_ratios(self) -> Mapping[str, float]:
        return {} if self.loraplus_lr_ratio == 1 else {"b": self.loraplus_lr_ratio}

    @property
    def kept_as_drawn(self) -> frozenset[str]:
        return frozenset() if self.train_a else frozenset({"a"})

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
        dims: Sequence[int],
    ) -> Float[Tensor, "n m d_out"]:
        return low_rank_product(frozen, x, dropped, stacked["a"], stacked["b"], scale, dims)

    @staticmethod
    def decode_linear(
        frozen: FrozenLinear, x: Float[Tensor, "... d_in"], stacked: Parameters, scale: Float[Tensor, "n 1 1"]
    ) -> Float[Tensor, "... d_out"] | None:
        return frozen.weight.decode_gemm(x, frozen.bias, LowRankPairs(stacked["a"], stacked["b"], scale))

    @staticmethod
    def delta_embedding(
        ids: Int[Tensor, "n m"], stacked: Parameters, scale: Float[Tensor, "n 1 1"], dims: Sequence[int]
    ) -> Float[Tensor, "n m d"]:
        a, b = stacked["a"], stacked["b"]
        columns = ids[:, None, :].expand(-1, a.shape[1], -1)
        narrow = a.gather(2, columns).transpose(1, 2) * scale
        if len(set(dims)) == 1:
            return torch.bmm(narrow, b)
        delta = b.new_zeros(*ids.shape, b.shape[2])
        for trials, r in equal_dims(dims):
            delta[trials] = torch.bmm(narrow[trials, :, :r], b[trials, :r])
        return delta

    def peft_config(self, target_modules: list[str], **more: Any) -> Any:
        from peft import LoraConfig

        config = LoraConfig(
            r=self.dim,
            lora_alpha=self.dim if self.alpha is None else self.alpha,
            lora_dropout=self.dropout,
            use_rslora=self.use_rslora,
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
    dims: Sequence[int],
) -> Float[Tensor, "n m d_out"]:
    """x W^T + bias + scale (x A^T) B, in the precision of x; where given, `dropped` is what the pairs multiply.

    dims: each trial's own, at most r; its rows of A and B beyond are padding, which is not multiplied. A library
    sums a product of another width in another order, so that a trial beside wider ones would not train to the bit
    as it does alone.

    What backward needs is the pairs' input, the stored W, the pairs, and the narrow x A^T. Both adapter products
    are added in place to the frozen one's result, so that neither costs a tensor of its own size.
    """
    if dropped is None:
        many = frozen.weight.prefill_gemm(x, frozen.bias, LowRankPairs(a, b, scale))
        if many is not None:
            return many
    inputs = x, dropped, a, b, scale, frozen.weight, tuple(dims)
    y: Tensor = _LowRankProduct.apply(*inputs)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return y if frozen.bias is None else y + frozen.bias.to(y.dtype)


def equal_dims(dims: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Neighboring trials of one dim, and that dim. Left out are those of dim 0, which leave the layer alone."""
    start = 0
    for dim, same in groupby(dims):
        stop = start + len(list(same))
        if dim:
            yield slice(start, stop), dim
        start = stop


class _LowRankProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        weight: FrozenWeight,
        dims: tuple[int, ...],
    ) -> Tensor:
        inputs = x if dropped is None else dropped
        ctx.weight, ctx.dropped, ctx.dims = weight, dropped is not None, dims
        few = x.device.type == "cpu" and x.shape[1] <= FEW_TOKENS
        y = weight.matmul(x)
        narrow = []
        for trials, r in equal_dims(dims):
            own_a, own_b, own_scale = a[trials, :r], b[trials, :r], scale[trials]
            if few:
                own = torch.bmm(inputs[trials].to(a.dtype), own_a.transpose(1, 2)) * own_scale
                y[trials].add_(torch.bmm(own, own_b))
            else:
                own = torch.bmm(inputs[trials], own_a.to(x.dtype).transpose(1, 2)) * own_scale.to(x.dtype)
                y[trials].baddbmm_(own, own_b.to(x.dtype))
            narrow.append(own.to(x.dtype))
        ctx.save_for_backward(inputs, a, b, scale, *narrow)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, a, b, scale, *narrow = ctx.saved_tensors
        (grad,) = grads
        padded = len(set(ctx.dims)) > 1
        empty_like = torch.zeros_like if padded else torch.empty_like
        grad_a, grad_b = empty_like(a) if ctx.needs_input_grad[2] else None, empty_like(b)
        grad_x = ctx.weight.matmul_backward(grad) if ctx.needs_input_grad[0] else None
        grad_dropped = torch.zeros_like(inputs) if grad_x is not None and ctx.dropped else None
        for (trials, r), own in zip(equal_dims(ctx.dims), narrow, strict=True):
            own_a, own_b = a[trials, :r].to(grad.dtype), b[trials, :r].to(grad.dtype)
            grad_own = torch.bmm(grad[trials], own_b.transpose(1, 2)) * scale[trials].to(grad.dtype)
            if grad_a is not None:
                grad_a[trials, :r] = torch.bmm(grad_own.transpose(1, 2), inputs[trials])
            grad_b[trials, :r] = torch.bmm(own.transpose(1, 2), grad[trials])
            if grad_dropped is not None:
                grad_dropped[trials] = torch.bmm(grad_own, own_a)
            elif grad_x is not None:
                grad_x[trials].baddbmm_(grad_own, own_a)
        return grad_x, grad_dropped, grad_a, grad_b, None, None, None
