"""What an adapter kind must be able to do. A kind is a subclass in one file, and one YAML in conf/adapter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from summarizer.quantization.frozen import FrozenLinear

Parameters = Mapping[str, Tensor]
"""One layer's adapter tensors by name. Their first axis is the adapter dim; groups put `n` before it."""

Role = Literal["linear", "head", "embedding"]


class Adapter(BaseModel, ABC):
    """The config of one trial's adapters, and the arithmetic of its kind.

    Tensors of trials with smaller dims are padded with zeros to the largest in the group; `adapted_linear`
    and `delta_embedding` must give zero-padded tensors no influence and no gradient. Those that multiply each
    trial's own `dims` alone train it to the bit as if it were alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    targets: list[Role]
    """Which layers are adapted: every `linear` inside the model, the output `head`, the input `embedding`."""
    exclude: list[str]
    """Module names or globs to leave alone."""
    start_from: str | None
    """A PEFT adapter folder whose values replace the drawn ones."""

    @property
    @abstractmethod
    def scale(self) -> float:
        """What the adapter's output is multiplied by."""

    @property
    @abstractmethod
    def input_dropout(self) -> float:
        """Probability with which each input of an adapted linear layer is dropped for the adapter."""

    @property
    def lr_ratios(self) -> Mapping[str, float]:
        """By name, of the tensors that learn at another rate than the optimizer's: that rate over it."""
        return {}

    @property
    def kept_as_drawn(self) -> frozenset[str]:
        """Names of the tensors that are not trained."""
        return frozenset()

    @abstractmethod
    def draw_linear(
        self, d_in: int, d_out: int, generator: torch.Generator
    ) -> dict[str, Float[Tensor, "r ..."]]:
        """Initial tensors for one linear layer; the adapted layer must start equal to the frozen one."""

    @abstractmethod
    def draw_embedding(self, v: int, d: int, generator: torch.Generator) -> dict[str, Float[Tensor, "r ..."]]:
        """Initial tensors for the embedding of `v` rows; it must start equal to the frozen one."""

    @staticmethod
    @abstractmethod
    def adapted_linear(
        frozen: FrozenLinear,
        x: Float[Tensor, "n m d_in"],
        dropped: Float[Tensor, "n m d_in"] | None,
        stacked: Parameters,
        scale: Float[Tensor, "n 1 1"],
        dims: Sequence[int],
    ) -> Float[Tensor, "n m d_out"]:
        """A frozen linear layer's output with what `n` trials add to it, in batched products.

        x is in the precision of products, and so is the result.  dropped: x after dropout, which the adapters see
        in its place.  dims: each trial's adapter dim, 0 for one that leaves this layer alone.
        """

    @staticmethod
    def decode_linear(
        frozen: FrozenLinear, x: Float[Tensor, "... d_in"], stacked: Parameters, scale: Float[Tensor, "n 1 1"]
    ) -> Float[Tensor, "... d_out"] | None:
        """The same for the few rows, a trial's together, of which a token is written; no graph is made.

        None means that there is no faster way than `adapted_linear`, which is then called. A subclass of another
        kind inherits that kind's arithmetic here: where its own differs, it has to override this too.
        """
        return None

    @staticmethod
    @abstractmethod
    def delta_embedding(
        ids: Int[Tensor, "n m"], stacked: Parameters, scale: Float[Tensor, "n 1 1"], dims: Sequence[int]
    ) -> Float[Tensor, "n m d"]:
        """What `n` trials add to the embedding's output."""

    @abstractmethod
    def peft_config(self, target_modules: list[str], **more: Any) -> Any:
        """This adapter as a `peft` config."""

    @staticmethod
    @abstractmethod
    def to_peft(role: Role, tensors: Parameters) -> dict[str, Tensor]:
        """One layer's tensors under the names and in the layout that `peft` saves."""

    @staticmethod
    @abstractmethod
    def from_peft(role: Role, tensors: Parameters) -> dict[str, Tensor]:
        """The inverse of `to_peft`. Raises KeyError where a tensor is missing."""
