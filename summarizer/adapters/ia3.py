"""(IA)^3: y = l (W x + b), each output times a learned number; in feedforward layers y = W (l x) + b, each input.

Source: Liu et al. 2022 (arXiv:2205.05638), which multiplies the keys, the values and the inputs of each block's
last product. Here it is every layer that the config asks for, by the output unless `feedforward_modules` matches,
as in peft, whose l is one vector for each layer. All l are 1 at first.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from summarizer.adapters.peft_config import as_peft
from summarizer.adapters.protocol import KEPT_OUTPUT_ROWS, Adapter, Parameters, Role, Shape, Stacked, as_mask
from summarizer.errors import Issue, suggestion
from summarizer.ops import kernel_graph
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear

NAME = "ia3_l"
"""What peft calls the vector of a layer."""


class IA3(Adapter):
    """A number beside each output, or each input, of an adapted layer.

    Tensors: `out` (1, d_out), or `into` (1, d_in) in feedforward layers."""

    feedforward_modules: list[str]
    """Module names or globs of the layers whose inputs are multiplied, in the place of their outputs."""

    @staticmethod
    def adaptable() -> tuple[Role, ...]:
        return "linear", "head"

    def mistakes(self, roles: Mapping[str, Role]) -> Iterator[Issue]:
        for pattern in self.feedforward_modules:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in roles):
                near = suggestion(pattern, roles)
                yield Issue("adapter.feedforward_modules", f"{pattern!r} matches no layer{near}")

    def for_layer(self, name: str, role: Role) -> Adapter:
        return self.model_copy(update={"feedforward_modules": ["*"] if self._feeds_forward(name) else []})

    @property
    def width(self) -> int:
        return 1 + KEPT_OUTPUT_ROWS

    def _feeds_forward(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.feedforward_modules)

    # ---- the first values ----------------------------------------------------------------------------------------

    def draw_linear(self, frozen: FrozenLinear, generator: torch.Generator) -> dict[str, Tensor]:
        if self.feedforward_modules:
            return {"into": torch.ones(1, frozen.in_features)}
        return {"out": torch.ones(1, frozen.out_features)}

    # ---- the arithmetic ------------------------------------------------------------------------------------------

    @staticmethod
    def adapted_linear(
        frozen: FrozenLinear,
        x: Float[Tensor, "n m d_in"],
        dropped: Float[Tensor, "n m d_in"] | None,
        stacked: Stacked,
    ) -> Float[Tensor, "n m d_out"]:
        return _multiplied(frozen(_multiplied(x, stacked, "into")), stacked, "out")

    @staticmethod
    def prepared(frozen: FrozenLinear | FrozenEmbedding, stacked: Stacked) -> Stacked:
        """A 1 for each trial that does not multiply there, so that all are multiplied at once."""
        tensors = {name: _or_one(stacked, name) for name in stacked.tensors}
        return stacked.with_tensors(tensors, dict.fromkeys(tensors, (1,) * len(stacked.scale)))

    @staticmethod
    def decode_linear(
        frozen: FrozenLinear, x: Float[Tensor, "... d_in"], stacked: Stacked
    ) -> Float[Tensor, "... d_out"] | None:
        if not frozen.weight.decodes(x):
            return None
        kernel_graph.require(False, "(IA)^3")
        by_trial = x.reshape(len(stacked.scale), -1, x.shape[-1])
        y = frozen.weight.decode_gemm(_multiplied(by_trial, stacked, "into").reshape(x.shape), frozen.bias)
        if y is None:
            return None
        return _multiplied(y.reshape(*by_trial.shape[:2], -1), stacked, "out").reshape(y.shape)

    def merged(
        self, frozen: FrozenLinear | FrozenEmbedding, dense: Tensor, tensors: Parameters
    ) -> Float[Tensor, "d_out d_in"]:
        return dense * (tensors["out"].detach().t() if "out" in tensors else tensors["into"].detach())

    def merged_bias(self, bias: Float[Tensor, " d_out"], tensors: Parameters) -> Float[Tensor, " d_out"]:
        return bias * tensors["out"].detach()[0].to(bias.device) if "out" in tensors else bias

    # ---- PEFT's form ---------------------------------------------------------------------------------------------

    def peft_config(self, target_modules: list[str], **more: Any) -> Any:
        from peft import IA3Config

        config = as_peft(IA3Config, target_modules, **more)
        own = [name for name in target_modules if self._feeds_forward(name)]
        config.feedforward_modules = own  # in order, as the targets
        others = [name for name in target_modules if name not in own]
        if any(other.endswith(name) for name in own for other in others):
            config.feedforward_modules = "|".join(map(re.escape, own))  # matched whole, lists as ends
        return config

    @classmethod
    def fields_of_peft(
        cls, config: Mapping[str, Any], shapes: Mapping[str, Mapping[str, Shape]]
    ) -> dict[str, Any]:
        return {"feedforward_modules": [name for name, own in shapes.items() if own[NAME][0] == 1]}

    def differences(self, config: Mapping[str, Any]) -> Iterator[str]:
        theirs = config.get("feedforward_modules") or []
        if bool(theirs) != bool(self.feedforward_modules):
            own = self.feedforward_modules
            yield f"it has feedforward_modules={theirs}, adapter.feedforward_modules is {own}"

    def to_peft(self, role: Role, tensors: Parameters) -> dict[str, Tensor]:
        return {NAME: tensors["out"].t() if "out" in tensors else tensors["into"]}

    def from_peft(self, role: Role, tensors: Parameters) -> dict[str, Tensor]:
        own = tensors[NAME]
        return {"into": own} if self.feedforward_modules else {"out": own.t()}


def _multiplied(x: Float[Tensor, "n m d"], stacked: Stacked, name: str) -> Float[Tensor, "n m d"]:
    """In the precision of x."""
    if name not in stacked:
        return x
    # l is near 1. In bf16 it would lose what it has learnt, its distance from 1 does not.
    return torch.addcmul(x, x, (_or_one(stacked, name) - 1).to(x.dtype))


def _or_one(stacked: Stacked, name: str) -> Float[Tensor, "n 1 d"]:
    """The trials' vectors, and ones for those without."""
    own, sizes = stacked[name], stacked.sizes[name]
    if all(sizes):
        return own
    return torch.where(as_mask(sizes, stacked.scale), own, 1.0)
