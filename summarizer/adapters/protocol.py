"""What an adapter kind must be able to do. A kind is a subclass in one file, and one YAML in conf/adapter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from summarizer.errors import Issue
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear

Parameters = Mapping[str, Tensor]
"""One layer's adapter tensors by name."""

Shape = tuple[int, ...]
Role = Literal["linear", "head", "embedding"]
ROLES: tuple[Role, ...] = ("linear", "head", "embedding")
KEPT_OUTPUT_ROWS = 256
"""What an output that backward keeps for each token weighs in `Adapter.width`: as pairs of this dim would."""


@dataclass(frozen=True)
class Stacked:
    """The tensors of `n` neighboring trials of one kind beside one layer."""

    tensors: Mapping[str, Float[Tensor, "n ..."]]
    """By name, behind each other; along their first axis padded with zeros to the largest among the trials."""
    sizes: Mapping[str, tuple[int, ...]]
    """How many rows of each are a trial's own; 0 for one without that tensor, or that leaves this layer alone."""
    scale: Float[Tensor, "n 1 1"]
    """Each trial's `Adapter.scale`."""
    variants: tuple[int, ...]
    """Each trial's `Adapter.variant`."""
    shared: tuple[Parameters, ...]
    """Each trial's `Adapter.draw_shared`, one object for trials that share it."""

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def of(self, slots: Sequence[int]) -> Stacked:
        """Some of the trials, without a graph; all of them in the same memory."""
        chosen = list(slots)
        if chosen == list(range(len(self.scale))):
            return replace(self, tensors={name: tensor.detach() for name, tensor in self.tensors.items()})
        return Stacked(
            {name: tensor.detach()[chosen] for name, tensor in self.tensors.items()},
            {name: tuple(sizes[slot] for slot in chosen) for name, sizes in self.sizes.items()},
            self.scale[chosen],
            tuple(self.variants[slot] for slot in chosen),
            tuple(self.shared[slot] for slot in chosen),
        )

    def with_tensors(self, tensors: Mapping[str, Tensor], sizes: Mapping[str, tuple[int, ...]]) -> Stacked:
        """The same trials with other tensors."""
        return replace(self, tensors=tensors, sizes=sizes)


def as_mask(sizes: Sequence[int], scale: Float[Tensor, "n 1 1"]) -> Bool[Tensor, "n 1 1"]:
    """Which trials have something.  Filled where `scale` lies: a graph that is recorded takes no numbers in."""
    mask = torch.zeros_like(scale, dtype=torch.bool)
    for trial, size in enumerate(sizes):
        mask[trial] = size > 0
    return mask


class Adapter(BaseModel, ABC):
    """The config of one trial's adapters, and the arithmetic of its kind.

    A group's trials may be of several kinds: neighbors of one kind are computed together. Their tensors are padded
    with zeros to the largest in the group, and `adapted_linear` and `adapted_embedding` must give the padding no
    influence and no gradient. Those that multiply each trial's own rows alone train it to the bit as if it were
    alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    targets: list[Role]
    """Which layers are adapted: every `linear` inside the model, the output `head`, the input `embedding`."""
    exclude: list[str]
    """Module names or globs to leave alone."""
    start_from: str | None
    """A PEFT adapter folder whose values replace the drawn ones."""

    @staticmethod
    def adaptable() -> tuple[Role, ...]:
        """Which layers the kind is defined for; others among the targets are left alone, and a line says so."""
        return ROLES

    def mistakes(self, roles: Mapping[str, Role]) -> Iterator[Issue]:
        """What of this config fits no model with these layers, by name.  It is asked before weights are read."""
        yield from ()

    def for_layer(self, name: str, role: Role) -> Adapter:
        """This config as it is for one layer: the same, unless layers differ.

        name: of the layer's module in the model.
        """
        return self

    @property
    def scale(self) -> float:
        """What the adapter's output is multiplied by."""
        return 1.0

    @property
    def variant(self) -> int:
        """Tells trials of one kind apart whose tensors are alike and are computed with differently."""
        return 0

    @property
    def input_dropout(self) -> float:
        """Probability with which each input of an adapted linear layer is dropped for the adapter."""
        return 0.0

    @property
    @abstractmethod
    def width(self) -> int:
        """Rows as wide as a layer that a step holds beside it: the plan takes the widest of a group for all."""

    @property
    def starts_from_the_base(self) -> bool:
        """Its first values are made of the base's weights, which takes a while."""
        return False

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
        self, frozen: FrozenLinear, generator: torch.Generator
    ) -> dict[str, Float[Tensor, "rows ..."]]:
        """Initial tensors for one linear layer; the adapted layer must start equal to the frozen one.

        Raises ConfigError where the layer's shape does not allow it.
        """

    def draw_embedding(
        self, frozen: FrozenEmbedding, generator: torch.Generator
    ) -> dict[str, Float[Tensor, "rows ..."]]:
        """Initial tensors for the embedding; it must start equal to the frozen one."""
        raise NotImplementedError(f"{type(self).__name__} is not defined for embeddings")

    def shared_key(self, shapes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """What the frozen tensors that all of a trial's layers share are drawn from; nothing where there are none.

        shapes: (d_out, d_in) of the weights that it adapts.  Trials of like keys hold the same tensors.
        """
        return ()

    @staticmethod
    def draw_shared(key: tuple[int, ...]) -> Parameters:
        """The frozen tensors that all layers of a trial share, by a `shared_key` alone."""
        return {}

    @staticmethod
    @abstractmethod
    def adapted_linear(
        frozen: FrozenLinear,
        x: Float[Tensor, "n m d_in"],
        dropped: Float[Tensor, "n m d_in"] | None,
        stacked: Stacked,
    ) -> Float[Tensor, "n m d_out"]:
        """A frozen linear layer's output as `n` trials change it, in batched products.

        x is in the precision of products, and so is the result.  dropped: x after dropout, which the adapters see
        in its place.
        """

    @staticmethod
    def adapted_embedding(
        frozen: FrozenEmbedding,
        rows: Float[Tensor, "n m d"],
        ids: Int[Tensor, "n m"],
        stacked: Stacked,
    ) -> Float[Tensor, "n m d"]:
        """The embedding's output as `n` trials change it.  rows: what `frozen` gives for the ids."""
        raise NotImplementedError("not defined for embeddings")

    @staticmethod
    def prepared(frozen: FrozenLinear | FrozenEmbedding, stacked: Stacked) -> Stacked:
        """What passes without gradients need, made of values that stay as they are meanwhile.

        The other methods find it in the place of `stacked` there.
        """
        return stacked

    @staticmethod
    def decode_linear(
        frozen: FrozenLinear, x: Float[Tensor, "... d_in"], stacked: Stacked
    ) -> Float[Tensor, "... d_out"] | None:
        """`adapted_linear` for the few rows, a trial's together, of which a token is written; no graph is made.

        None means that there is no faster way than `adapted_linear`, which is then called. A subclass of another
        kind inherits that kind's arithmetic here: where its own differs, it has to override this too.
        """
        return None

    @abstractmethod
    def merged(
        self, frozen: FrozenLinear | FrozenEmbedding, dense: Float[Tensor, "d_out d_in"], tensors: Parameters
    ) -> Float[Tensor, "d_out d_in"]:
        """One weight with this adapter in it, in fp32.

        frozen: the layer that was trained on.  dense: its weight, or what it was quantized from; it is not to be
        changed in place.  tensors: one trial's, as drawn, and those that its layers share.
        """

    def merged_bias(self, bias: Float[Tensor, " d_out"], tensors: Parameters) -> Float[Tensor, " d_out"]:
        """A linear layer's bias with this adapter in it."""
        return bias

    @abstractmethod
    def peft_config(self, target_modules: list[str], **more: Any) -> Any:
        """This adapter as a `peft` config."""

    def peft_patterns(self, layers: Mapping[str, Adapter]) -> dict[str, Any]:
        """Options of `peft_config` for layers that differ.  layers: those adapted, each with its `for_layer`."""
        return {}

    @classmethod
    @abstractmethod
    def fields_of_peft(
        cls, config: Mapping[str, Any], shapes: Mapping[str, Mapping[str, Shape]]
    ) -> dict[str, Any]:
        """The fields of this config that a folder tells, beside which layers it adapts.

        config: of the folder, whose options are all known.  shapes: of each adapted layer's tensors, by the names
        that `to_peft` gives.  Raises ValueError, with the reason, for what cannot be computed.
        """

    @abstractmethod
    def differences(self, config: Mapping[str, Any]) -> Iterator[str]:
        """What speaks against taking the values of a folder with that config: `it has dim 3, adapter.dim is 2`."""

    @abstractmethod
    def to_peft(self, role: Role, tensors: Parameters) -> dict[str, Tensor]:
        """One layer's tensors under the names and in the layout that `peft` saves."""

    @staticmethod
    def shared_to_peft(shared: Parameters) -> dict[str, Tensor]:
        """What a trial's layers share under the names that `peft` gives in the file of all layers."""
        return {}

    @abstractmethod
    def from_peft(self, role: Role, tensors: Parameters) -> dict[str, Tensor]:
        """The inverse of `to_peft`; what it leaves out stays as drawn.

        Raises KeyError where a tensor is missing.
        """
