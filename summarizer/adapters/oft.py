"""OFT: y = W R x + b with R orthogonal, made of small rotations that are learned: angles between outputs stay.

Source: Qiu et al. 2023 (arXiv:2306.07280), in the form of Qiu et al. 2025 (arXiv:2506.19847) and of peft from 0.16
on, which rotates inputs. They are cut into blocks. Each block's rotation is Cayley's of a skew-symmetric Q, whose
numbers above the diagonal are learned and 0 at first: exactly (I - Q)(I + Q)^-1; or by the Neumann series of
(I + Q)(I - Q)^-1 = I + 2 Q + 2 Q^2 + ..., whose last term counts once. On the embedding it rotates what is looked
up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from summarizer.adapters.peft_config import as_peft
from summarizer.adapters.protocol import Adapter, Parameters, Role, Shape, Stacked
from summarizer.errors import ConfigError, Issue
from summarizer.ops import kernel_graph
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear

EXACT = 0
"""The variant of trials that take no series."""
FEWEST_TERMS, MOST_TERMS = 2, 32
"""Of the series: I alone would not rotate."""


class OFT(Adapter):
    """A rotation of each block of an adapted layer's inputs.

    Tensors: `q`, the numbers of peft's (blocks, s (s - 1) / 2) for blocks of s inputs as (s - 1, d_in / 2), so that
    trials of several sizes fit into one stack."""

    oft_block_size: Annotated[int, Field(ge=2, le=2**16)] | None
    """Inputs of a block; a layer whose inputs it does not divide takes the nearest size that does."""
    r: Annotated[int, Field(ge=1, le=2**16)] | None
    """Blocks of each layer, in the place of their size."""
    use_cayley_neumann: bool
    """By the series; false solves for the exact rotation."""
    num_cayley_neumann_terms: Annotated[int, Field(ge=2, le=32)]
    """Of the series, I among them."""

    def mistakes(self, roles: Mapping[str, Role]) -> Iterator[Issue]:
        if (self.oft_block_size is None) == (self.r is None):
            yield Issue(
                "adapter.oft_block_size", "give it or adapter.r, the number of blocks, and null for the other"
            )

    @property
    def variant(self) -> int:
        return self.num_cayley_neumann_terms if self.use_cayley_neumann else EXACT

    @property
    def width(self) -> int:
        # Q, its powers and R are each as many numbers as rows of a block's size.
        return 8 * (self.oft_block_size or 32)

    # ---- the first values ----------------------------------------------------------------------------------------

    def draw_linear(self, frozen: FrozenLinear, generator: torch.Generator) -> dict[str, Tensor]:
        return {"q": self._zeros(frozen.in_features)}

    def draw_embedding(self, frozen: FrozenEmbedding, generator: torch.Generator) -> dict[str, Tensor]:
        return {"q": self._zeros(frozen.embedding_dim)}

    def _zeros(self, inputs: int) -> Float[Tensor, "rows half"]:
        if self.r is None:
            size = _nearest_divisor(inputs, self.oft_block_size or 0)
        else:
            size = inputs // _nearest_divisor(inputs, self.r)
        if size == 1 or inputs % 2:
            asked = f"{self.oft_block_size} inputs" if self.r is None else f"{inputs} / {self.r} inputs"
            raise ConfigError.single(
                "adapter.oft_block_size" if self.r is None else "adapter.r",
                f"a layer of {inputs} inputs cannot be cut into blocks of about {asked}; see adapter.exclude",
            )
        return torch.zeros(size - 1, inputs // 2)

    # ---- the arithmetic ------------------------------------------------------------------------------------------

    @staticmethod
    def adapted_linear(
        frozen: FrozenLinear,
        x: Float[Tensor, "n m d_in"],
        dropped: Float[Tensor, "n m d_in"] | None,
        stacked: Stacked,
    ) -> Float[Tensor, "n m d_out"]:
        y: Tensor = frozen(_rotated(x, stacked))
        return y

    @staticmethod
    def adapted_embedding(
        frozen: FrozenEmbedding,
        rows: Float[Tensor, "n m d"],
        ids: Int[Tensor, "n m"],
        stacked: Stacked,
    ) -> Float[Tensor, "n m d"]:
        return _rotated(rows, stacked)

    @staticmethod
    def prepared(frozen: FrozenLinear | FrozenEmbedding, stacked: Stacked) -> Stacked:
        """What the rotations add to I, made once."""
        sizes = tuple(rows + 1 if rows else 0 for rows in stacked.sizes["q"])
        turns = stacked["q"].new_zeros(len(sizes), max(sizes), 2 * stacked["q"].shape[2])
        for trials, turn in _turns(stacked):
            if turn is not None:
                turns[trials, : turn.shape[-1]] = turn.reshape(turn.shape[0], turn.shape[-1], -1)
        return stacked.with_tensors({"turn": turns}, {"turn": sizes})

    @staticmethod
    def decode_linear(
        frozen: FrozenLinear, x: Float[Tensor, "... d_in"], stacked: Stacked
    ) -> Float[Tensor, "... d_out"] | None:
        if not frozen.weight.decodes(x):
            return None
        kernel_graph.require(False, "a rotation")
        rotated = _rotated(x.reshape(len(stacked.scale), -1, x.shape[-1]), stacked)
        return frozen.weight.decode_gemm(rotated.reshape(x.shape), frozen.bias)

    def merged(
        self, frozen: FrozenLinear | FrozenEmbedding, dense: Tensor, tensors: Parameters
    ) -> Float[Tensor, "d_out d_in"]:
        turn = _turn(tensors["q"].detach()[None], self.variant)
        # W R, where rows of inputs are multiplied by R^T from the right.
        if not isinstance(frozen, FrozenEmbedding):
            turn = turn.transpose(2, 3)
        return _turned(dense[None], turn)[0]

    # ---- PEFT's form ---------------------------------------------------------------------------------------------

    def peft_config(self, target_modules: list[str], **more: Any) -> Any:
        from peft import OFTConfig

        return as_peft(
            OFTConfig,
            target_modules,
            r=self.r or 0,
            oft_block_size=self.oft_block_size or 0,
            use_cayley_neumann=self.use_cayley_neumann,
            num_cayley_neumann_terms=self.num_cayley_neumann_terms,
            bias="none",
            **more,
        )

    @classmethod
    def fields_of_peft(
        cls, config: Mapping[str, Any], shapes: Mapping[str, Mapping[str, Shape]]
    ) -> dict[str, Any]:
        size, blocks, exact, terms = _options(config)
        whole = all(isinstance(number, int) and number >= 0 for number in (size, blocks, terms))
        if not whole or bool(size) == bool(blocks):
            raise ValueError(f"its oft_block_size and r are {size!r} and {blocks!r}, not a number and 0")
        if not exact and not FEWEST_TERMS <= terms <= MOST_TERMS:
            raise ValueError(f"it has num_cayley_neumann_terms={terms!r}, which cannot be computed here")
        return {
            "oft_block_size": size or None,
            "r": blocks or None,
            "use_cayley_neumann": not exact,
            "num_cayley_neumann_terms": FEWEST_TERMS if exact else terms,
        }

    def differences(self, config: Mapping[str, Any]) -> Iterator[str]:
        size, blocks, exact, terms = _options(config)
        if (size, blocks) != (self.oft_block_size or 0, self.r or 0):
            own = f"adapter.oft_block_size and adapter.r are {self.oft_block_size} and {self.r}"
            yield f"its oft_block_size and r are {size} and {blocks}, {own}"
        elif exact == self.use_cayley_neumann:
            yield f"it has use_cayley_neumann={not exact}, adapter.use_cayley_neumann is {exact}"
        elif not exact and terms != self.num_cayley_neumann_terms:
            own = f"adapter.num_cayley_neumann_terms is {self.num_cayley_neumann_terms}"
            yield f"it has num_cayley_neumann_terms={terms}, {own}"

    def to_peft(self, role: Role, tensors: Parameters) -> dict[str, Tensor]:
        return {_peft_name(role): _by_block(tensors["q"])}

    def from_peft(self, role: Role, tensors: Parameters) -> dict[str, Tensor]:
        blocks, numbers = tensors[_peft_name(role)].shape
        size = _size_of(numbers)
        return {"q": tensors[_peft_name(role)].reshape(size - 1, blocks * size // 2)}


def _peft_name(role: Role) -> str:
    return "oft_embedding_R.weight" if role == "embedding" else "oft_R.weight"


def _options(config: Mapping[str, Any]) -> tuple[Any, Any, bool, Any]:
    """A folder's block size and blocks, whether its rotations are exact, and the terms of the series."""
    exact = config.get("use_cayley_neumann") is False
    return config.get("oft_block_size"), config.get("r"), exact, config.get("num_cayley_neumann_terms", 5)


def _nearest_divisor(whole: int, wanted: int) -> int:
    """Of two that are as near, the smaller, as peft has it."""
    divisors = (number for number in range(1, whole + 1) if whole % number == 0)
    return min(divisors, key=lambda number: (abs(number - wanted), number))


def _size_of(numbers: int) -> int:
    """The s of s (s - 1) / 2 numbers above a diagonal."""
    return (1 + math.isqrt(1 + 8 * numbers)) // 2


def _by_block(q: Float[Tensor, "... rows half"]) -> Float[Tensor, "... blocks numbers"]:
    size = q.shape[-2] + 1
    return q.reshape(*q.shape[:-2], 2 * q.shape[-1] // size, size * (size - 1) // 2)


# ---- rotations ---------------------------------------------------------------------------------------------------


def _rotated(x: Float[Tensor, "n m d"], stacked: Stacked) -> Float[Tensor, "n m d"]:
    parts = [x[trials] if turn is None else _turned(x[trials], turn) for trials, turn in _turns(stacked)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _turns(stacked: Stacked) -> Iterator[tuple[slice, Float[Tensor, "n blocks s s"] | None]]:
    """Neighboring trials whose blocks are of one size, and what their rotations add to I; None for no rotation."""
    (name,) = stacked.tensors
    start = 0
    for (rows, variant), same in groupby(zip(stacked.sizes[name], stacked.variants, strict=True)):
        trials = slice(start, start + len(list(same)))
        own = stacked[name][trials, :rows]
        if rows == 0:
            yield trials, None
        elif name == "turn":
            yield trials, own.reshape(own.shape[0], -1, rows, rows)
        else:
            yield trials, _turn(own, variant)
        start = trials.stop


def _turned(x: Float[Tensor, "n m d"], turn: Float[Tensor, "n blocks s s"]) -> Float[Tensor, "n m d"]:
    """x rotated block by block, in the precision of x."""
    blocks = x.reshape(*x.shape[:2], *turn.shape[1:3]).transpose(1, 2)
    # R is near I. In bf16 it would lose what it has learnt, its distance from I does not.
    added = torch.matmul(blocks, turn.to(x.dtype)).transpose(1, 2)
    return x + added.reshape(x.shape)


def _turn(q: Float[Tensor, "n rows half"], variant: int) -> Float[Tensor, "n blocks s s"]:
    """R - I of each block."""
    above = _by_block(q)
    size = q.shape[1] + 1
    rows, columns = torch.triu_indices(size, size, 1, device=q.device)
    upper = above.new_zeros(*above.shape[:2], size, size)
    upper[:, :, rows, columns] = above
    skew = upper - upper.transpose(2, 3)
    with torch.autocast(q.device.type, enabled=False):
        if variant == EXACT:
            identity = torch.eye(size, device=q.device)
            turn: Tensor = torch.linalg.solve(identity + skew, -2 * skew, left=False)
            return turn
        turn, power = 2 * skew, skew
        terms = 4 if variant == 3 else variant  # peft's three are its four
        for degree in range(2, terms):
            power = torch.matmul(power, skew)
            turn = turn + (1 if degree == terms - 1 else 2) * power
        return turn
