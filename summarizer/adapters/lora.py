"""LoRA: y = W x + scale B A x with W frozen, and those of its relatives that are settings of it.

Source: Hu et al. 2021 (arXiv:2106.09685). On the embedding it is an Embedding(v, dim), then a Linear(dim, d),
as in the reference experiment. A is drawn as `nn.Linear` draws its weight (uniform within 1/sqrt(d_in)), the
embedding's A as `nn.Embedding` draws its own (a standard normal), B is zero. The scale is alpha / dim.

rsLoRA (Kalajdzievski 2023, arXiv:2312.03732) scales by alpha / sqrt(dim), so that what a pair adds does not shrink
as dim grows. LoRA+ (Hayou et al. 2024, arXiv:2402.12354) lets B learn faster than A by a ratio. LoRA-FA (Zhang
et al. 2023, arXiv:2308.03303) trains B alone, with B's plain gradient: peft's `create_lorafa_optimizer` multiplies
that by (A A^T)^-1 and leaves the embedding's A to be trained. DoRA (dora.py) learns each row's length apart. PiSSA
and OLoRA (principal.py) start linear layers from a part of the weight; an embedding starts as LoRA's.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from summarizer.adapters.dora import gain, magnitude
from summarizer.adapters.low_rank_product import Pair, low_rank_product
from summarizer.adapters.peft_config import FROM_THE_BASE, as_peft
from summarizer.adapters.principal import principal_pair
from summarizer.adapters.protocol import KEPT_OUTPUT_ROWS, ROLES, Adapter, Parameters, Role, Shape, Stacked
from summarizer.errors import ConfigError, Issue, suggestion
from summarizer.ops import kernel_graph
from summarizer.ops.decode_gemm import LowRankPairs
from summarizer.ops.low_rank import equal_dims
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear
from summarizer.quantization.protocol import Gain

DEFAULT = "default"
"""The key of a mapping of ranks that holds for all layers that no other key names."""


class LoRA(Adapter):
    """A low-rank pair beside each adapted layer.

    Tensors: `a`, and `b` as (r, d_out), so that a trial's share of a stack padded to the largest dim is one block;
    DoRA's `m`, the length of each output; `a0` and `b0`, the pair that PiSSA and OLoRA started from."""

    dim: Annotated[int, Field(ge=1, le=2**16)] | dict[str, Annotated[int, Field(ge=1, le=2**16)]]
    """r, the rank of the pair; or ranks by `default`, role (linear, head, embedding) or glob of module names, of
    which the last that matches holds."""
    alpha: Annotated[float, Field(gt=0)] | None
    """Numerator of the scale; null is dim, which scales by 1 (rsLoRA's by sqrt(dim))."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    use_rslora: bool = False
    """Scale by alpha / sqrt(dim), as rsLoRA does."""
    loraplus_lr_ratio: Annotated[float, Field(gt=0)] = 1.0
    """B's learning rate over A's, which is the optimizer's; LoRA+ has it above 1."""
    train_a: bool = True
    """False trains B alone, as LoRA-FA does."""
    use_dora: bool = False
    """Learn the length of each output's weights apart from their direction, as DoRA does."""
    init_lora_weights: (
        Literal[True] | Annotated[str, Field(pattern=r"^(pissa|pissa_niter_[0-9]{1,3}|olora)$")]
    ) = True
    """How a linear layer's pair starts; true draws A and leaves B zero."""

    @property
    def scale(self) -> float:
        dim = self.rank
        alpha = dim if self.alpha is None else self.alpha
        return alpha / (math.sqrt(dim) if self.use_rslora else dim)

    @property
    def rank(self) -> int:
        """The rank, of one layer or of all that no other key of a mapping names."""
        return self.dim if isinstance(self.dim, int) else self.dim.get(DEFAULT, 1)

    def mistakes(self, roles: Mapping[str, Role]) -> Iterator[Issue]:
        if isinstance(self.dim, int):
            return
        if DEFAULT not in self.dim:
            yield Issue(
                "adapter.dim", f"{self.dim} has no {DEFAULT!r}, the rank of layers that no other key names"
            )
        for key in self.dim:
            known = key == DEFAULT or key in ROLES or any(fnmatch.fnmatchcase(name, key) for name in roles)
            if not known:
                yield Issue("adapter.dim", f"{key!r} matches no layer{suggestion(key, roles)}")

    def for_layer(self, name: str, role: Role) -> Adapter:
        if isinstance(self.dim, int):
            return self
        chosen = self.rank
        for key, dim in self.dim.items():
            if key == role or fnmatch.fnmatchcase(name, key):
                chosen = dim
        return self.model_copy(update={"dim": chosen})

    @property
    def width(self) -> int:
        dim = self.dim if isinstance(self.dim, int) else max(self.dim.values())
        return 2 * dim * (2 if self.starts_from_the_base else 1) + (KEPT_OUTPUT_ROWS if self.use_dora else 0)

    @property
    def starts_from_the_base(self) -> bool:
        return self.init_lora_weights is not True

    @property
    def lr_ratios(self) -> Mapping[str, float]:
        return {} if self.loraplus_lr_ratio == 1 else {"b": self.loraplus_lr_ratio}

    @property
    def kept_as_drawn(self) -> frozenset[str]:
        return frozenset({"a0", "b0"} if self.train_a else {"a", "a0", "b0"})

    @property
    def input_dropout(self) -> float:
        return self.dropout

    # ---- the first values ----------------------------------------------------------------------------------------

    def draw_linear(self, frozen: FrozenLinear, generator: torch.Generator) -> dict[str, Tensor]:
        dim, d_in, d_out = self.rank, frozen.in_features, frozen.out_features
        if self.starts_from_the_base:
            if dim > min(d_in, d_out):
                raise ConfigError.single(
                    "adapter.dim",
                    f"{dim} is more than a layer of {d_in} inputs and {d_out} outputs has singular values; "
                    f"init_lora_weights={self.init_lora_weights} takes at most {min(d_in, d_out)} there",
                )
            a, b = principal_pair(frozen.weight, str(self.init_lora_weights), dim, self.scale)
            own = {"a": a, "b": b, "a0": a.clone(), "b0": b.clone()}
        else:
            bound = d_in**-0.5
            a = torch.empty(dim, d_in).uniform_(-bound, bound, generator=generator)
            own = {"a": a, "b": torch.zeros(dim, d_out)}
        return own | ({"m": magnitude(frozen)} if self.use_dora else {})

    def draw_embedding(self, frozen: FrozenEmbedding, generator: torch.Generator) -> dict[str, Tensor]:
        v, d = frozen.num_embeddings, frozen.embedding_dim
        a = torch.empty(self.rank, v).normal_(generator=generator)
        own = {"a": a, "b": torch.zeros(self.rank, d)}
        return own | ({"m": magnitude(frozen)} if self.use_dora else {})

    # ---- the arithmetic ------------------------------------------------------------------------------------------

    @staticmethod
    def adapted_linear(
        frozen: FrozenLinear,
        x: Float[Tensor, "n m d_in"],
        dropped: Float[Tensor, "n m d_in"] | None,
        stacked: Stacked,
    ) -> Float[Tensor, "n m d_out"]:
        pairs = [Pair(stacked["a"], stacked["b"], stacked.sizes["a"])]
        if "a0" in stacked:
            pairs.append(Pair(stacked["a0"], stacked["b0"], stacked.sizes["a0"], sign=-1, sees_dropout=False))
        return low_rank_product(frozen, x, dropped, pairs, stacked.scale, _gain(frozen, stacked))

    @staticmethod
    def adapted_embedding(
        frozen: FrozenEmbedding,
        rows: Float[Tensor, "n m d"],
        ids: Int[Tensor, "n m"],
        stacked: Stacked,
    ) -> Float[Tensor, "n m d"]:
        a, b, dims = stacked["a"], stacked["b"], stacked.sizes["a"]
        columns = ids[:, None, :].expand(-1, a.shape[1], -1)
        narrow = a.gather(2, columns).transpose(1, 2) * (stacked.scale * frozen.scale)
        if len(set(dims)) == 1:
            adapted = rows + torch.bmm(narrow, b)
        else:
            delta = b.new_zeros(*ids.shape, b.shape[2])
            for trials, r in equal_dims(dims):
                delta[trials] = torch.bmm(narrow[trials, :, :r], b[trials, :r])
            adapted = rows + delta
        own_gain = _gain(frozen, stacked)
        return adapted if own_gain is None else adapted * own_gain

    @staticmethod
    def prepared(frozen: FrozenLinear | FrozenEmbedding, stacked: Stacked) -> Stacked:
        """One pair each, of twice the rank where a pair is subtracted, and the gains in the place of `m`."""
        if "a0" not in stacked and "m" not in stacked:
            return stacked
        with torch.no_grad():
            own_gain = _gain(frozen, stacked)
            tensors = {"a": stacked["a"], "b": stacked["b"]}
            sizes = dict(stacked.sizes)
            if "a0" in stacked:
                both = [x + y for x, y in zip(sizes["a"], sizes.pop("a0"), strict=True)]
                signed = {"a": stacked["a0"], "b": -stacked["b0"]}
                for name in tensors:
                    tensors[name] = _behind(tensors[name], signed[name], stacked.sizes, max(both))
                sizes |= {"a": tuple(both), "b": tuple(both)}
                sizes.pop("b0")
            if own_gain is not None:
                tensors["gain"], sizes["gain"] = own_gain, sizes.pop("m")
        return stacked.with_tensors(tensors, sizes)

    @staticmethod
    def decode_linear(
        frozen: FrozenLinear, x: Float[Tensor, "... d_in"], stacked: Stacked
    ) -> Float[Tensor, "... d_out"] | None:
        pairs = LowRankPairs(stacked["a"], stacked["b"], stacked.scale)
        if "gain" not in stacked:
            return frozen.weight.decode_gemm(x, frozen.bias, pairs)
        kernel_graph.require(False, "a gain")
        y = frozen.weight.decode_gemm(x, None, pairs)
        if y is None:
            return None
        gained = y.reshape(stacked.scale.shape[0], -1, y.shape[-1]) * stacked["gain"]
        return (gained if frozen.bias is None else gained + frozen.bias).reshape(y.shape)

    def merged(
        self, frozen: FrozenLinear | FrozenEmbedding, dense: Tensor, tensors: Parameters
    ) -> Float[Tensor, "d_out d_in"]:
        by_column = isinstance(frozen, FrozenEmbedding)
        a, b = tensors["a"].detach(), tensors["b"].detach()
        # Not in place: an unquantized base gives the very tensor that it computes with.
        merged = torch.addmm(dense, *_sides(a, b, by_column), alpha=self.scale)
        if "a0" in tensors:
            merged.addmm_(*_sides(tensors["a0"], tensors["b0"], by_column), alpha=-self.scale)
        if "m" in tensors:
            factor = tensors["m"].detach() / torch.linalg.vector_norm(merged, dim=0 if by_column else 1)
            merged *= factor if by_column else factor.t()
        return merged

    # ---- PEFT's form ---------------------------------------------------------------------------------------------

    def peft_config(self, target_modules: list[str], **more: Any) -> Any:
        from peft import LoraConfig

        # A pair with the one that is subtracted is a plain one of twice the rank, of the same scale.
        times = 2 if self.starts_from_the_base else 1
        alpha = self.rank if self.alpha is None else self.alpha
        return as_peft(
            LoraConfig,
            target_modules,
            r=times * self.rank,
            lora_alpha=alpha * (math.sqrt(times) if self.use_rslora else times),
            lora_dropout=self.dropout,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            bias="none",
            **more,
        )

    def peft_patterns(self, layers: Mapping[str, Adapter]) -> dict[str, Any]:
        own = self.peft_config([])
        other = {name: layer.peft_config([]) for name, layer in layers.items() if layer != self}
        ranks = {name: config.r for name, config in other.items() if config.r != own.r}
        alphas = {
            name: config.lora_alpha for name, config in other.items() if config.lora_alpha != own.lora_alpha
        }
        return {name: found for name, found in (("rank_pattern", ranks), ("alpha_pattern", alphas)) if found}

    @classmethod
    def fields_of_peft(
        cls, config: Mapping[str, Any], shapes: Mapping[str, Mapping[str, Shape]]
    ) -> dict[str, Any]:
        rank, alpha, pattern = config["r"], float(config["lora_alpha"]), config.get("alpha_pattern") or {}
        ranks = {
            name: next(
                (shape[0] for key, shape in own.items() if key.removesuffix(".weight").endswith("_A")), rank
            )
            for name, own in shapes.items()
        }
        dora = config.get("use_dora", False)
        if odd := [name for name, own in shapes.items() if (MAGNITUDE in own) != dora]:
            raise ValueError(f"it has use_dora={dora}, and its tensors for {odd[0]} say otherwise")
        # With alpha null each layer's is its own rank, which is how this project writes ranks that differ.
        if pattern and any(_of_pattern(pattern, name, alpha) != own for name, own in ranks.items()):
            raise ValueError(f"it uses alpha_pattern={pattern!r}, which cannot be computed here")
        other = {name: own for name, own in ranks.items() if own != rank}
        init = config.get("init_lora_weights")
        return {
            "dim": {DEFAULT: rank, **other} if other else rank,
            "alpha": None if pattern else alpha,
            "dropout": 0.0,
            "use_rslora": config.get("use_rslora", False),
            "use_dora": dora,
            "init_lora_weights": init if init in FROM_THE_BASE else True,
        }

    def differences(self, config: Mapping[str, Any]) -> Iterator[str]:
        for option in ("use_rslora", "use_dora"):
            theirs, own = config.get(option, False), getattr(self, option)
            if theirs != own:
                yield f"it has {option}={theirs}, adapter.{option} is {own}"
        # A folder of peft's holds the trained pair alone, and takes the other from the base as this does.
        init = config.get("init_lora_weights")
        alone = init in FROM_THE_BASE
        if alone and init != self.init_lora_weights:
            yield f"it starts from a part of the base: set adapter.init_lora_weights={init}"
        times = 2 if self.starts_from_the_base and not alone else 1
        dim, alpha = config["r"], config["lora_alpha"]
        scale = alpha / (math.sqrt(dim) if config.get("use_rslora") else dim)
        if dim != times * self.rank:
            yield f"it has dim {dim / times:g}, adapter.dim is {self.rank}"
        elif abs(scale - self.scale) > 1e-9:
            yield f"it scales by {scale:g} (alpha {alpha:g}); set adapter.alpha to {alpha / times:g}"

    def to_peft(self, role: Role, tensors: Parameters) -> dict[str, Tensor]:
        a, b = tensors["a"], tensors["b"]
        if self.starts_from_the_base:
            a = torch.cat([a, tensors["a0"] if "a0" in tensors else torch.zeros_like(a)])
            b = torch.cat([b, -tensors["b0"] if "b0" in tensors else torch.zeros_like(b)])
        name_a, name_b = _peft_names(role)
        own = {name_a: a.contiguous(), name_b: b.t().contiguous()}
        return own | ({MAGNITUDE: tensors["m"][0].contiguous()} if "m" in tensors else {})

    def from_peft(self, role: Role, tensors: Parameters) -> dict[str, Tensor]:
        name_a, name_b = _peft_names(role)
        a, b = tensors[name_a], tensors[name_b].t()
        own = {"a": a, "b": b}
        if self.starts_from_the_base and a.shape[0] == 2 * self.rank:
            own = {"a": a[: self.rank], "b": b[: self.rank]}
            if role != "embedding":
                own |= {"a0": a[self.rank :], "b0": -b[self.rank :]}
        return own | ({"m": tensors[MAGNITUDE][None]} if self.use_dora else {})


MAGNITUDE = "lora_magnitude_vector"


def _of_pattern(pattern: Mapping[str, int | float], name: str, otherwise: float) -> float | int:
    """What a `rank_pattern` or `alpha_pattern` says of a layer: the first whose key its name is, or ends as."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), otherwise)


def _peft_names(role: Role) -> tuple[str, str]:
    if role == "embedding":
        return "lora_embedding_A", "lora_embedding_B"
    return "lora_A.weight", "lora_B.weight"


def _sides(a: Tensor, b: Tensor, by_column: bool) -> tuple[Tensor, Tensor]:
    """The two factors of what a pair adds to a weight as it is stored."""
    return (a.t(), b) if by_column else (b.t(), a)


def _gain(frozen: FrozenLinear | FrozenEmbedding, stacked: Stacked) -> Gain:
    """What each output is multiplied by, of trials that learn the lengths of their weights."""
    if "gain" in stacked:
        return stacked["gain"]
    if "m" not in stacked:
        return None
    gained, a, b = stacked.sizes["m"], stacked["a"], stacked["b"]
    dims = _where(gained, stacked.sizes["a"])
    if "a0" in stacked and any(first := _where(gained, stacked.sizes["a0"])):
        both = [x + y for x, y in zip(dims, first, strict=True)]
        sizes = {"a": dims, "a0": first}
        a = _behind(a.detach(), stacked["a0"], sizes, max(both))
        b = _behind(b.detach(), -stacked["b0"], sizes, max(both))
        dims = tuple(both)
    return gain(frozen, a, b, stacked["m"], stacked.scale, dims)


def _where(gained: Sequence[int], dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(dim if one else 0 for one, dim in zip(gained, dims, strict=True))


def _behind(
    tensor: Float[Tensor, "n r k"],
    first: Float[Tensor, "n r0 k"],
    sizes: Mapping[str, tuple[int, ...]],
    most: int,
) -> Float[Tensor, "n {most} k"]:
    """Each trial's own rows of one stack and, right behind them, of another."""
    out = tensor.new_zeros(tensor.shape[0], most, tensor.shape[2])
    for trial, (r, r0) in enumerate(zip(sizes["a"], sizes["a0"], strict=True)):
        out[trial, :r], out[trial, r : r + r0] = tensor[trial, :r], first[trial, :r0]
    return out
