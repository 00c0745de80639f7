"""VeRA: y = W x + b * (B (d * (A x))), random matrices A and B that all layers share, and two trained vectors.

Source: Kopiczko et al. 2023 (arXiv:2310.11454). A of shape (r, widest input) and B of shape (widest output, r) are
drawn from `projection_prng_key` alone, as peft draws them, and never trained; a layer uses as many of A's columns
and B's rows as it has inputs and outputs. b of shape (d_out,) is zero at first, d of shape (r,) is `d_initial`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from summarizer.adapters.low_rank_product import decode_plain_pairs, plain_pairs_product
from summarizer.adapters.peft_config import as_peft
from summarizer.adapters.protocol import Adapter, Parameters, Role, Shape, Stacked
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear


class VeRA(Adapter):
    """Two vectors beside each adapted layer, and two random matrices that all of them share.

    Tensors: `d` (r,) and `b` (d_out,); shared: `all_a` (r, widest d_in) and `all_b` (widest d_out, r)."""

    dim: Annotated[int, Field(ge=1, le=2**16)]
    """r, the rows of A."""
    projection_prng_key: Annotated[int, Field(ge=0, lt=2**63)]
    """What A and B are drawn from."""
    d_initial: float
    """What each number of d starts at."""
    dropout: Annotated[float, Field(ge=0, lt=1)]

    @staticmethod
    def adaptable() -> tuple[Role, ...]:
        return "linear", "head"

    @property
    def width(self) -> int:
        return 2 * self.dim

    @property
    def input_dropout(self) -> float:
        return self.dropout

    # ---- the first values ----------------------------------------------------------------------------------------

    def draw_linear(self, frozen: FrozenLinear, generator: torch.Generator) -> dict[str, Tensor]:
        return {"d": torch.full((self.dim,), self.d_initial), "b": torch.zeros(frozen.out_features)}

    def shared_key(self, shapes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        widest_out, widest_in = (max(sizes) for sizes in zip(*shapes, strict=True))
        return self.projection_prng_key, self.dim, widest_out, widest_in

    @staticmethod
    def draw_shared(key: tuple[int, ...]) -> dict[str, Tensor]:
        seed, r, widest_out, widest_in = key
        generator = torch.Generator().manual_seed(seed)
        # In this order, from one generator.
        a = _kaiming_uniform((r, widest_in), generator)
        return {"all_a": a, "all_b": _kaiming_uniform((widest_out, r), generator)}

    # ---- the arithmetic ------------------------------------------------------------------------------------------

    @staticmethod
    def adapted_linear(
        frozen: FrozenLinear,
        x: Float[Tensor, "n m d_in"],
        dropped: Float[Tensor, "n m d_in"] | None,
        stacked: Stacked,
    ) -> Float[Tensor, "n m d_out"]:
        if "a" in stacked:
            return plain_pairs_product(frozen, x, dropped, stacked)
        seen = x if dropped is None else dropped
        y: Tensor = frozen(x)
        for trials, shared in _alike(stacked):
            # A part's backward copies the whole gradient.
            share = y if trials == slice(0, len(y)) else y[trials]
            a, b = _pairs(frozen, shared, stacked, trials)
            # Each trial's rows alone: a product of all rows may be summed in another order.
            narrow = torch.bmm(seen[trials], a.to(x.dtype).t().expand(len(share), -1, -1))
            share.baddbmm_(narrow, b.to(x.dtype).transpose(1, 2))
        return y

    @staticmethod
    def prepared(frozen: FrozenLinear | FrozenEmbedding, stacked: Stacked) -> Stacked:
        """As plain pairs, which the kernels of prompts and of tokens know."""
        d, sizes = stacked["d"], stacked.sizes["d"]
        d_out, d_in = frozen.weight.shape
        a, b = d.new_zeros(*d.shape, d_in), d.new_zeros(*d.shape, d_out)
        for trials, shared in _alike(stacked):
            own_a, own_b = _pairs(frozen, shared, stacked, trials)
            a[trials, : len(own_a)] = own_a
            b[trials, : len(own_a)] = own_b.transpose(1, 2)
        return stacked.with_tensors({"a": a, "b": b}, {"a": sizes, "b": sizes})

    @staticmethod
    def decode_linear(
        frozen: FrozenLinear, x: Float[Tensor, "... d_in"], stacked: Stacked
    ) -> Float[Tensor, "... d_out"] | None:
        return decode_plain_pairs(frozen, x, stacked)

    def merged(
        self, frozen: FrozenLinear | FrozenEmbedding, dense: Tensor, tensors: Parameters
    ) -> Float[Tensor, "d_out d_in"]:
        d_out, d_in = dense.shape
        b = tensors["b"].detach()[:, None] * tensors["all_b"][:d_out] * tensors["d"].detach()
        return dense + b @ tensors["all_a"][:, :d_in]

    # ---- PEFT's form ---------------------------------------------------------------------------------------------

    def peft_config(self, target_modules: list[str], **more: Any) -> Any:
        from peft import VeraConfig

        own = {
            "r": self.dim,
            "projection_prng_key": self.projection_prng_key,
            "save_projection": True,
            "vera_dropout": self.dropout,
            "d_initial": self.d_initial,
        }
        return as_peft(VeraConfig, target_modules, **own, **more)

    @classmethod
    def fields_of_peft(
        cls, config: Mapping[str, Any], shapes: Mapping[str, Mapping[str, Shape]]
    ) -> dict[str, Any]:
        key = config.get("projection_prng_key", 0)
        return {"dim": config["r"], "projection_prng_key": key, "d_initial": 0.1, "dropout": 0.0}

    def differences(self, config: Mapping[str, Any]) -> Iterator[str]:
        if config["r"] != self.dim:
            yield f"it has dim {config['r']}, adapter.dim is {self.dim}"
        if (key := config.get("projection_prng_key", 0)) != self.projection_prng_key:
            ours = f"adapter.projection_prng_key is {self.projection_prng_key}"
            yield f"its matrices were drawn from projection_prng_key {key}, {ours}"

    def to_peft(self, role: Role, tensors: Parameters) -> dict[str, Tensor]:
        return {"vera_lambda_b": tensors["b"], "vera_lambda_d": tensors["d"]}

    def from_peft(self, role: Role, tensors: Parameters) -> dict[str, Tensor]:
        return {"b": tensors["vera_lambda_b"], "d": tensors["vera_lambda_d"]}

    @staticmethod
    def shared_to_peft(shared: Parameters) -> dict[str, Tensor]:
        return {"base_model.vera_A": shared["all_a"], "base_model.vera_B": shared["all_b"]}


def _kaiming_uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """He et al. 2015 (arXiv:1502.01852), by the number of inputs; to peft's last bit."""
    bound = math.sqrt(3.0) * (math.sqrt(2) / math.sqrt(shape[1]))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _alike(stacked: Stacked) -> Iterator[tuple[slice, Parameters]]:
    """Neighboring trials that share their matrices, and those. Trials that leave the layer alone are left out."""
    sizes, start = stacked.sizes["d"], 0
    for _, same in groupby(range(len(sizes)), key=lambda trial: sizes[trial] and id(stacked.shared[trial])):
        stop = start + len(list(same))
        if sizes[start]:
            yield slice(start, stop), stacked.shared[start]
        start = stop


def _pairs(
    frozen: FrozenLinear | FrozenEmbedding, shared: Parameters, stacked: Stacked, trials: slice
) -> tuple[Float[Tensor, "r d_in"], Float[Tensor, "k d_out r"]]:
    """The low-rank pairs that the layer of these trials computes: A, and each one's b B d."""
    d_out, d_in = frozen.weight.shape
    a = shared["all_a"][:, :d_in]
    b: Tensor = _ScaledProjection.apply(  # type: ignore[no-untyped-call]  # torch leaves apply untyped
        shared["all_b"][:d_out], stacked["b"][trials], stacked["d"][trials, : len(a)]
    )
    return a, b


class _ScaledProjection(torch.autograd.Function):
    """b B d of each trial. What backward needs is the vectors: torch's own would keep a matrix of each trial."""

    @staticmethod
    def forward(
        ctx: Any,
        projection: Float[Tensor, "d_out r"],
        b: Float[Tensor, "k d_out"],
        d: Float[Tensor, "k r"],
    ) -> Float[Tensor, "k d_out r"]:
        ctx.save_for_backward(projection, b, d)
        return projection * b[:, :, None] * d[:, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor]:
        projection, b, d = ctx.saved_tensors
        grad = grads[0] * projection
        return None, torch.bmm(grad, d[:, :, None])[:, :, 0], torch.bmm(b[:, None], grad)[:, 0]
