"""MiSS: y = W x + (sum over blocks of x) D, one small matrix D that all blocks of r inputs of a layer share.

Source: Kang and Yin 2024 (arXiv:2409.15371), in the form that peft calls `init_weights=True`. D of shape (r, d_out)
is zero at first. It is LoRA whose A is the identity of r rows side by side, never trained, so that x A^T is a
reshape and a sum: inputs that r does not divide are padded with zeros, as in peft.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from summarizer.adapters.low_rank_product import decode_plain_pairs, plain_pairs_product
from summarizer.adapters.peft_config import as_peft
from summarizer.adapters.protocol import Adapter, Parameters, Role, Shape, Stacked
from summarizer.errors import ConfigError
from summarizer.ops.low_rank import equal_dims
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear

NAME = "miss_block"
"""What peft calls a layer's D."""


class MiSS(Adapter):
    """A matrix beside each adapted layer that all blocks of its inputs share.

    Tensors: `d` (r, d_out)."""

    dim: Annotated[int, Field(ge=1, le=2**16)]
    """r, the inputs of a block."""
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
        if self.dim > frozen.in_features:
            raise ConfigError.single(
                "adapter.dim", f"{self.dim} is more than the {frozen.in_features} inputs that a layer has"
            )
        return {"d": torch.zeros(self.dim, frozen.out_features)}

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
        for trials, r in equal_dims(stacked.sizes["d"]):
            # A part's backward copies the whole gradient.
            share = y if trials == slice(0, len(y)) else y[trials]
            share.baddbmm_(_summed(seen[trials], r), stacked["d"][trials, :r].to(x.dtype))
        return y

    @staticmethod
    def prepared(frozen: FrozenLinear | FrozenEmbedding, stacked: Stacked) -> Stacked:
        """As plain pairs, which the kernels of prompts and of tokens know."""
        d, sizes = stacked["d"], stacked.sizes["d"]
        a = d.new_zeros(*d.shape[:2], frozen.weight.shape[1])
        for trials, r in equal_dims(sizes):
            a[trials, :r] = _tiled(torch.eye(r, device=d.device), a.shape[2])
        return stacked.with_tensors({"a": a, "b": d}, {"a": sizes, "b": sizes})

    @staticmethod
    def decode_linear(
        frozen: FrozenLinear, x: Float[Tensor, "... d_in"], stacked: Stacked
    ) -> Float[Tensor, "... d_out"] | None:
        return decode_plain_pairs(frozen, x, stacked)

    def merged(
        self, frozen: FrozenLinear | FrozenEmbedding, dense: Tensor, tensors: Parameters
    ) -> Float[Tensor, "d_out d_in"]:
        return dense + _tiled(tensors["d"].detach().t(), dense.shape[1])

    # ---- PEFT's form ---------------------------------------------------------------------------------------------

    def peft_config(self, target_modules: list[str], **more: Any) -> Any:
        from peft import MissConfig

        more.pop("fan_in_fan_out", None)  # peft knows MiSS on nn.Linear alone
        own = {"r": self.dim, "miss_dropout": self.dropout, "init_weights": True, "bias": "none"}
        return as_peft(MissConfig, target_modules, **own, **more)

    @classmethod
    def fields_of_peft(
        cls, config: Mapping[str, Any], shapes: Mapping[str, Mapping[str, Shape]]
    ) -> dict[str, Any]:
        return {"dim": config["r"], "dropout": 0.0}

    def differences(self, config: Mapping[str, Any]) -> Iterator[str]:
        if config["r"] != self.dim:
            yield f"it has dim {config['r']}, adapter.dim is {self.dim}"

    def to_peft(self, role: Role, tensors: Parameters) -> dict[str, Tensor]:
        return {NAME: tensors["d"]}

    def from_peft(self, role: Role, tensors: Parameters) -> dict[str, Tensor]:
        return {"d": tensors[NAME]}


def _summed(x: Float[Tensor, "n m d_in"], r: int) -> Float[Tensor, "n m {r}"]:
    """The sum over blocks of r inputs."""
    padded = F.pad(x, (0, -x.shape[-1] % r)) if x.shape[-1] % r else x
    # On a GPU autocast makes a sum fp32.
    return padded.reshape(*x.shape[:2], -1, r).sum(dim=2).to(x.dtype)


def _tiled(block: Float[Tensor, "rows r"], d_in: int) -> Float[Tensor, "rows {d_in}"]:
    """A block's columns again and again, as many as there are inputs."""
    return block.repeat(1, -(-d_in // block.shape[1]))[:, :d_in]
